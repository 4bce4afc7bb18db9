"""Two things measured in alternating rounds of one run, as in `pair.rs`: what counts is the ratio of
their medians. `--quick` only shows that they run."""

import itertools
import sys
from time import perf_counter_ns

from memvelope import _native

QUICK = "--quick" in sys.argv[1:] or "--test" in sys.argv[1:]
ROUNDS, OPERATIONS = (3, 1_024) if QUICK else (31, 102_400)


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
    """Two calls into an extension class that do nothing."""
    for _ in repeats:
        empty.call()
        empty.call()
