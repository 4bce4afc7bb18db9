"""Admit + release from Python against a floor of two calls into an extension class that do
nothing, interleaved in one run as in `pair.rs`. What counts is the ratio of medians.

With admitperf installed (PyPI; it admits by thresholds on signals that it is given, and hands out
nothing), its decision is timed beside ours.

    python benches/python_gate.py [--quick]
"""

import gc
import itertools

import memvelope
from python_pair import OPERATIONS, empty_pair, row

#: Leases that grow in one call.
BATCH = 256


def gate(policy, blocks=1_000_000):
    return memvelope.Gate.from_blocks(blocks, policy=policy, max_model_len=100_000_000)


def admit_release(policy):
    def run(repeats, gate=gate(policy)):
        for _ in repeats:
            gate.try_admit(700, 300).release()

    return run


def admit_with(policy):
    def run(repeats, gate=gate(policy)):
        for _ in repeats:
            with gate.admit(700, 300):
                pass

    return run


def admit_drop(policy):
    def run(repeats, gate=gate(policy)):
        for _ in repeats:
            gate.try_admit(700, 300)

    return run


def refuse(policy):
    def run(repeats, gate=gate(policy, 10)):
        for _ in repeats:
            gate.try_admit(700, 300)

    return run


def grow(policy):
    def run(repeats, lease=gate(policy, 10_000_000).admit(1, 99_000_000)):
        for _ in repeats:
            lease.grow()

    return run


def grow_many(policy):
    """A token for each lease of a batch, in one call. Time of one lease."""
    owner = gate(policy, 10_000_000)
    # Of different lengths, so that one in sixteen needs a block, as in a running batch.
    leases = [owner.admit(1 + number, 30_000) for number in range(BATCH)]

    def run(repeats):
        for _ in itertools.islice(repeats, OPERATIONS // BATCH):
            owner.grow_many(leases)

    return run


def peer():
    """A verdict of admitperf's threshold on the KV cache, from signals that are at hand; `None`
    where it is not installed."""
    try:
        from admitperf.policies import KvThreshold
    except ImportError:
        return None
    policy, signals = KvThreshold(threshold=0.9), {"vllm:kv_cache_usage_perc": 0.5}

    def run(repeats):
        for _ in repeats:
            assert policy(signals).admitted

    return run


def main():
    # A collection in one round and not in its twin would be noise.
    gc.disable()
    floor = "two empty calls"
    print("| subject | time | floor | time | ratio |\n|---|---|---|---|---|")
    for policy in ("guaranteed", "banker"):
        for name, subject in [
            ("try_admit + release", admit_release),
            ("try_admit, lease dropped", admit_drop),
            ("with admit", admit_with),
            ("try_admit, refused", refuse),
            ("grow by one token", grow),
            (f"grow_many, a lease of {BATCH}", grow_many),
        ]:
            row(f"Python, {policy}: {name}", subject(policy), floor, empty_pair)
    verdict = peer()
    if verdict is None:
        print("ignored: admitperf is not installed")
        return
    for policy in ("guaranteed", "banker"):
        name = f"Python, {policy}: try_admit + release"
        row(name, admit_release(policy), "admitperf KvThreshold", verdict)


main()
