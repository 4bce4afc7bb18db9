"""`with profile("x")` against a floor of two calls into an extension class that do nothing, interleaved
in one run. Most processes record nothing at a given moment, so that is what it has to be cheap in.

    python benches/python_profile.py [--quick] [--simulated]

With `--simulated` (libcuda and the others being memvelope's simulator, first on LD_LIBRARY_PATH) scopes
are also told to the simulated CUPTI.
"""

import asyncio
import contextlib
import gc
import os
import sys

from memvelope import Profile, Session, profile
from python_pair import empty_pair, measure


def block(repeats):
    for _ in repeats:
        with profile("x"):
            pass


def block_with_trace(repeats):
    for _ in repeats:
        with profile("x", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"):
            pass


def kept(repeats, kept=Profile("x")):
    for _ in repeats:
        with kept:
            pass


def decorated(repeats):
    @profile("x")
    def function():
        pass

    for _ in repeats:
        function()


def coroutine(repeats):
    @profile("x")
    async def function():
        pass

    async def main():
        for _ in repeats:
            await function()

    asyncio.run(main())


FORMS = [
    ("with profile", block),
    ("with profile and traceparent", block_with_trace),
    ("with, one object", kept),
    ("decorated function", decorated),
    ("decorated coroutine", coroutine),
]


@contextlib.contextmanager
def session(record):
    if record is None:
        yield
        return
    os.environ["MEMVELOPE_RECORD"] = record
    with Session.start():
        yield


def main():
    # A collection in one round and not in its twin would be noise.
    gc.disable()
    states = [("no session", None), ("off", "off"), ("no recorder", "poll")]
    if "--simulated" in sys.argv[1:]:
        states.append(("recording, SIMULATED", "auto"))
    print("| subject | time | floor | time | ratio |\n|---|---|---|---|---|")
    for state, record in states:
        with session(record):
            for name, subject in FORMS:
                ours_ns, floor_ns = measure(subject, empty_pair)
                ratio = ours_ns / floor_ns
                ours = f"{state}: {name} | {ours_ns:.0f} ns"
                print(f"| {ours} | two empty calls | {floor_ns:.0f} ns | {ratio:.2f} |")


main()
