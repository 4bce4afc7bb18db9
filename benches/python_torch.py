"""A snapshot of PyTorch's allocator, ingested: `memvelope.torch.ingest` beside a loop in Python that
makes the same sums, and beside the library's builder alone, on plain arrays, which is what the walk
through Python's objects costs nothing of. Alternating rounds of one run; what counts are the ratios.
Processor time of the thread, so that what a busy machine does beside it does not count; the builder's
is the fastest round's, by the clock.

    python benches/python_torch.py [--quick]

Snapshots are built from the documented format, not recorded on a GPU.
"""

import gc
from time import thread_time_ns

import memvelope.torch
from memvelope import _native
from python_pair import QUICK, median

ROUNDS = 3 if QUICK else 15
MIB = 1 << 20
STATES = ("active_allocated", "inactive", "active_allocated", "active_awaiting_free")


def snapshot(blocks, a_segment):
    """So many blocks of 1 KiB and more, each with ints of its own, as PyTorch makes them."""
    segments, address = [], 0x7F00_0000_0000
    for _ in range(blocks // a_segment):
        made, start = [], address
        for index in range(a_segment):
            size = 1024 + 512 * (index % 7)
            made.append(
                {
                    "address": address,
                    "size": size,
                    "requested_size": size - 100,
                    "state": STATES[index % 4],
                    "frames": [],
                }
            )
            address += size
        segments.append(
            {
                "device": 0,
                "address": start,
                "total_size": address - start,
                "stream": 0,
                "segment_type": "large",
                "segment_pool_id": (0, 0),
                "is_expandable": False,
                "frames": [],
                "blocks": made,
            }
        )
        address = -(-address // MIB) * MIB
    return {"segments": segments, "device_traces": []}


def loop(told):
    """The least that somebody would write: four sums and the largest free block."""
    reserved = active = allocated = requested = largest = 0
    for segment in told["segments"]:
        reserved += segment["total_size"]
        for block in segment["blocks"]:
            size, state = block["size"], block["state"]
            if state == "active_allocated":
                allocated += size
                active += size
                requested += block["requested_size"]
            elif state == "inactive":
                largest = max(largest, size)
            else:
                active += size
    return reserved, active, allocated, requested, largest


def timed(run):
    begin = thread_time_ns()
    run()
    return thread_time_ns() - begin


def main():
    gc.disable()
    print("| blocks | segments | ingest | a block | loop in Python | ratio | builder alone | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    sizes = [(2_000, 20)] if QUICK else [(2_000, 20), (100_000, 100), (1_000_000, 100)]
    for blocks, a_segment in sizes:
        told = snapshot(blocks, a_segment)
        framework = memvelope.torch.ingest(told)
        sums = (
            framework.reserved_bytes,
            framework.active_bytes,
            framework.allocated_bytes,
            framework.requested_bytes,
        )
        assert sums == loop(told)[:4]
        ours, peer, floor = zip(
            *(
                (
                    timed(lambda told=told: memvelope.torch.ingest(told)),
                    timed(lambda told=told: loop(told)),
                    _native._torch_builder_ns(blocks, a_segment),
                )
                for _ in range(ROUNDS)
            ),
            strict=True,
        )
        ours, peer, floor = median(ours), median(peer), min(floor)
        print(
            f"| {blocks:,} | {blocks // a_segment:,} | {ours / 1e6:.2f} ms | {ours / blocks:.0f} ns "
            f"| {peer / 1e6:.2f} ms | {ours / peer:.2f} "
            f"| {floor / 1e6:.2f} ms | {ours / floor:.1f} |"
        )


main()
