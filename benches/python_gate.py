"""Admit + release from Python against a floor of two calls into an extension class that do
nothing, interleaved in one run as in `pair.rs`. What counts is the ratio of medians.

    python benches/python_gate.py [--quick]
"""

import gc
import itertools
import sys
from time import perf_counter_ns

import memvelope
from memvelope import _native

QUICK = "--quick" in sys.argv[1:] or "--test" in sys.argv[1:]
ROUNDS, OPERATIONS = (3, 1_000) if QUICK else (31, 100_000)


def median(times):
    times = sorted(times)
    return times[len(times) // 2]


def measure(subject, peer):
    """Median nanoseconds of one operation of either, from alternating rounds."""

    def timed(run):
        repeats = itertools.repeat(None, OPERATIONS)
        begin = perf_counter_ns()
        run(repeats)
        return (perf_counter_ns() - begin) / OPERATIONS

    timed(subject), timed(peer)
    times = [(timed(subject), timed(peer)) for _ in range(ROUNDS)]
    return median(a for a, _ in times), median(b for _, b in times)


def row(subject_name, subject, peer_name, peer):
    subject_ns, peer_ns = measure(subject, peer)
    ratio = subject_ns / peer_ns
    subject, peer = f"{subject_name} | {subject_ns:.1f} ns", f"{peer_name} | {peer_ns:.1f} ns"
    print(f"| {subject} | {peer} | {ratio:.2f} |")


def empty_pair(repeats, empty=_native._EmptyCall()):
    for _ in repeats:
        empty.call()
        empty.call()


def admit_release(repeats, gate=memvelope.Gate.from_blocks(100_000)):
    for _ in repeats:
        gate.try_admit(700, 300).release()


def admit_with(repeats, gate=memvelope.Gate.from_blocks(100_000)):
    for _ in repeats:
        with gate.admit(700, 300):
            pass


def admit_drop(repeats, gate=memvelope.Gate.from_blocks(100_000)):
    for _ in repeats:
        gate.try_admit(700, 300)


def grow(repeats, gate=memvelope.Gate.from_blocks(10_000_000)):
    lease = gate.admit(1, ROUNDS * OPERATIONS * 4)
    for _ in repeats:
        lease.grow()


def refuse(repeats, gate=memvelope.Gate.from_blocks(10)):
    for _ in repeats:
        gate.try_admit(700, 300)


def main():
    # A collection in one round and not in its twin would be noise.
    gc.disable()
    floor = "two empty calls"
    print("| subject | time | floor | time | ratio |\n|---|---|---|---|---|")
    row("Python: try_admit + release", admit_release, floor, empty_pair)
    row("Python: try_admit, lease dropped", admit_drop, floor, empty_pair)
    row("Python: with admit", admit_with, floor, empty_pair)
    row("Python: try_admit, refused", refuse, floor, empty_pair)
    row("Python: grow by one token", grow, floor, empty_pair)


main()
