"""A stand-in for PyTorch: an allocator that plays its caching allocator, behind the functions that
`memvelope.torch` calls. Snapshots are *built* from the documented format
(`torch.cuda.memory._snapshot`), not recorded on a GPU."""

import random
import types

SMALL, LARGE, MIB = 2 << 20, 20 << 20, 1 << 20
#: As in torch: one string object for all keys of a name, and for all states.
STATES = ("active_allocated", "active_awaiting_free", "inactive")


class OutOfMemoryError(RuntimeError):
    pass


class Allocator:
    """Splits, merges, expandable segments, private pools, streams, blocks that await a stream."""

    def __init__(self, total=1 << 40):
        self.segments = []
        self.total = total
        self.next = 0x7F00_0000_0000
        self.expandable = False
        self.pool = (0, 0)
        self.counts = {"allocated": 0, "freed": 0, "segments": 0, "ooms": 0}
        self.observers = []
        #: Hands out a segment's address; without it, addresses are made up.
        self.driver = None

    def allocate(self, asked, *, stream=0, device=0):
        size = max(512, -(-asked // 512) * 512)
        kind = "small" if size <= MIB else "large"
        key = (device, self.pool, stream, kind)
        found = self._free_block(key, size)
        if found is None:
            found = self._take(key, size)
        segment, at = found
        blocks = segment["blocks"]
        rest = blocks[at]["size"] - size
        splits = segment["is_expandable"] or kind == "small"
        if rest >= 512 if splits else rest > MIB:
            blocks.insert(at + 1, dict(blocks[at], size=rest))
            blocks[at]["size"] = size
        blocks[at].update(requested_size=asked, state=STATES[0])
        self.counts["allocated"] += 1
        return segment["address"] + sum(block["size"] for block in blocks[:at])

    def free(self, address, *, waits=False):
        segment, at = self._find(address)
        blocks = segment["blocks"]
        blocks[at]["state"] = STATES[1 if waits else 2]
        self.counts["freed"] += 1
        if waits:
            return
        if at + 1 < len(blocks) and blocks[at + 1]["state"] == STATES[2]:
            blocks[at]["size"] += blocks.pop(at + 1)["size"]
        if at and blocks[at - 1]["state"] == STATES[2]:
            blocks[at - 1]["size"] += blocks.pop(at)["size"]

    def reserved(self, device=0):
        return sum(it["total_size"] for it in self.segments if it["device"] == device)

    def snapshot(self):
        told = []
        for segment in sorted(self.segments, key=lambda it: it["address"]):
            address, blocks = segment["address"], []
            for block in segment["blocks"]:
                blocks.append(
                    {
                        "address": address,
                        "size": block["size"],
                        "requested_size": block["requested_size"],
                        "state": block["state"],
                        "frames": [],
                    }
                )
                address += block["size"]
            sums = [
                sum(block["size"] for block in blocks if block["state"] in states)
                for states in (STATES[:1], STATES[:2])
            ]
            told.append(dict(segment, allocated_size=sums[0], active_size=sums[1], blocks=blocks))
        return {
            "segments": told,
            "device_traces": [],
            "allocator_settings": {
                "PYTORCH_CUDA_ALLOC_CONF": "",
                "max_split_size": -1,
                "garbage_collection_threshold": 0.0,
                "expandable_segments": self.expandable,
                "roundup_power2_divisions": {"1": 0, "2": 0},
            },
        }

    def stats(self, device=0):
        blocks = [
            block
            for segment in self.segments
            if segment["device"] == device
            for block in segment["blocks"]
        ]

        def current(states):
            return {
                "all": {"current": sum(b["size"] for b in blocks if b["state"] in states)}
            }

        return {
            "num_alloc_retries": 0,
            "num_ooms": self.counts["ooms"],
            "allocation": {
                "all": {"allocated": self.counts["allocated"], "freed": self.counts["freed"]}
            },
            "segment": {"all": {"allocated": self.counts["segments"], "freed": 0}},
            "allocated_bytes": current(STATES[:1]),
            "active_bytes": current(STATES[:2]),
            "reserved_bytes": current(STATES),
        }

    def _free_block(self, key, size):
        best = None
        for segment in self.segments:
            mine = (segment["device"], segment["segment_pool_id"], segment["stream"])
            if (*mine, segment["segment_type"]) != key:
                continue
            for at, block in enumerate(segment["blocks"]):
                if block["state"] == STATES[2] and block["size"] >= size:
                    if best is None or block["size"] < best[0]:
                        best = (block["size"], segment, at)
        return best and best[1:]

    def _take(self, key, size):
        device, pool, stream, kind = key
        page = SMALL if kind == "small" else LARGE
        if self.expandable:
            taken = -(-size // page) * page
        elif kind == "small" or size < 10 * MIB:
            taken = page
        else:
            taken = -(-size // SMALL) * SMALL
        free = self.total - self.reserved(device)
        if taken > free:
            self.counts["ooms"] += 1
            for observer in self.observers:
                observer(device, taken, self.total, free)
            raise OutOfMemoryError(f"CUDA out of memory. Tried to allocate {taken}")
        segment = {
            "device": device,
            "address": self.driver(taken) if self.driver else self.next,
            "total_size": taken,
            "stream": stream,
            "segment_type": kind,
            "segment_pool_id": pool,
            "is_expandable": self.expandable,
            "frames": [],
            "blocks": [{"size": taken, "requested_size": 0, "state": STATES[2]}],
        }
        self.next += taken
        self.counts["segments"] += 1
        self.segments.append(segment)
        return segment, 0

    def _find(self, address):
        for segment in self.segments:
            at = segment["address"]
            for index, block in enumerate(segment["blocks"]):
                if at == address:
                    return segment, index
                at += block["size"]
        raise AssertionError(hex(address))


def played(seed, steps=400):
    """An allocator after a random program."""
    draw = random.Random(seed)
    allocator, live = Allocator(), []
    for _ in range(steps):
        choice = draw.random()
        if choice < 0.05:
            allocator.expandable = not allocator.expandable
        elif choice < 0.1:
            allocator.pool = draw.choice([(0, 0), (0, 0), (3, 0), (0, 2)])
        elif choice < 0.65 or not live:
            asked = int(2 ** draw.uniform(0, 26))
            live.append(allocator.allocate(asked, stream=draw.randrange(2)))
        else:
            allocator.free(live.pop(draw.randrange(len(live))), waits=draw.random() < 0.1)
    return allocator


def module(allocator, *, initialised=True, takes_traces=True):
    """`torch` with as much of it as is called."""
    state = types.SimpleNamespace(initialised=initialised, lazy=[], snapshots=0)

    def memory_snapshot(argument="none"):
        state.snapshots += 1
        if takes_traces:
            assert argument == (0, 0, False)
        else:
            assert argument is None
        return allocator.snapshot()

    def newer(mempool_id=None, include_traces=True):
        return None

    def older():
        return None

    def lazy_call(call):
        if state.initialised:
            call()
        else:
            state.lazy.append(call)

    def init():
        state.initialised = True
        for call in state.lazy:
            call()

    torch = types.ModuleType("torch")
    torch.OutOfMemoryError = OutOfMemoryError
    torch._C = types.SimpleNamespace(
        _cuda_memorySnapshot=memory_snapshot,
        _cuda_attach_out_of_memory_observer=allocator.observers.append,
        _cuda_getMemoryFraction=lambda device: 1.0,
    )
    torch.device = lambda name: types.SimpleNamespace(
        index=int(name.partition(":")[2]) if ":" in name else None
    )
    torch.cuda = types.SimpleNamespace(
        is_initialized=lambda: state.initialised,
        current_device=lambda: 0,
        get_allocator_backend=lambda: "native",
        memory_snapshot=newer if takes_traces else older,
        memory_stats_as_nested_dict=allocator.stats,
        _lazy_call=lazy_call,
    )
    torch.fake = types.SimpleNamespace(allocator=allocator, init=init, state=state)
    return torch
