"""`memvelope.torch` on snapshots that are built from PyTorch's documented format (not recorded), and
on a stand-in for torch whose allocator plays PyTorch's."""

import copy
import json
import pathlib
import pickle
import random
import sys
import threading

import memvelope
import memvelope.torch
import pytest
import torch_fake
from memvelope import ReadAllocatorError
from torch_fake import LARGE, MIB, SMALL, Allocator


@pytest.fixture
def torch(monkeypatch):
    """A stand-in for torch, imported; nothing of it is left behind."""

    def install(allocator=None, **options):
        fake = torch_fake.module(allocator or Allocator(), **options)
        monkeypatch.setitem(sys.modules, "torch", fake)
        return fake

    monkeypatch.setattr(memvelope.torch, "_is_attached", False)
    monkeypatch.setattr(memvelope.torch, "_watches", [])
    return install


def naive(snapshot):
    """The sums in the plainest way."""
    sums = dict.fromkeys(("requested", "allocated", "active", "reserved", "releasable"), 0)
    for segment in snapshot["segments"]:
        sums["reserved"] += segment["total_size"]
        page = segment["total_size"]
        if segment["is_expandable"]:
            page = SMALL if segment["segment_type"] == "small" else LARGE
        used, at = [], 0
        for block in segment["blocks"]:
            if block["state"] != "inactive":
                sums["active"] += block["size"]
                used.append((at, at + block["size"]))
            if block["state"] == "active_allocated":
                sums["allocated"] += block["size"]
                sums["requested"] += block["requested_size"]
            at += block["size"]
        if segment["segment_pool_id"] == (0, 0):
            for start in range(0, segment["total_size"], page):
                if not any(a < start + page and b > start for a, b in used):
                    sums["releasable"] += page
    return sums


def sums_of(framework):
    names = ("requested", "allocated", "active", "reserved", "releasable")
    return {name: getattr(framework, f"{name}_bytes") for name in names}


@pytest.mark.parametrize("seed", range(12))
def test_sums_are_those_of_the_naive_model(seed):
    allocator = torch_fake.played(seed)
    told = allocator.snapshot()
    framework = memvelope.torch.ingest(told, allocator.stats())
    assert sums_of(framework) == naive(told)
    assert framework.notes == []
    assert framework.blocks == sum(len(segment["blocks"]) for segment in told["segments"])
    # As a list, pickled, through JSON: other strings, lists for tuples, the same numbers.
    for other in (
        told["segments"],
        pickle.loads(pickle.dumps(told)),
        json.loads(json.dumps(told)),
        {"segments": tuple(told["segments"])},
    ):
        assert sums_of(memvelope.torch.ingest(other)) == naive(told)


def test_what_a_framework_tells():
    allocator = Allocator()
    allocator.allocate(1000)
    allocator.pool = (0, 2)
    allocator.allocate(3 * MIB, stream=7)
    framework = memvelope.torch.ingest(allocator.snapshot(), allocator.stats())
    assert framework.device == 0
    assert framework.turnover == 4
    assert framework.requested_bytes == 1000 + 3 * MIB
    assert framework.cached_bytes == framework.reserved_bytes - framework.active_bytes
    assert framework.stranded_bytes == framework.cached_bytes
    assert framework.by_tag["untagged"] == framework.requested_bytes
    places = [(tuple(it["pool"]), it["stream"], it["class"]) for it in framework.spaces]
    assert places == [((0, 0), 0, "small"), ((0, 2), 7, "large")]
    assert [it["largest_free_bytes"] for it in framework.spaces] == [SMALL - 1024, LARGE - 3 * MIB]
    assert framework.settings["expandable_segments"] is False
    assert framework.settings["max_split_size"] is None
    whole = framework.as_dict()
    assert len(whole["segments"]) == 2 and framework.as_dict(segments=False)["segments"] == []
    assert "22.0 MiB reserved" in repr(framework)


def test_settings_are_read():
    told = Allocator().snapshot()
    told["allocator_settings"].update(
        PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True,large_segment_size_mb:12",
        max_split_size=256 * MIB,
        expandable_segments=True,
        roundup_power2_divisions={"1": 4},
    )
    settings = memvelope.torch.ingest(told).settings
    assert settings["expandable_segments"] is True
    assert settings["max_split_size"] == 256 * MIB
    assert settings["large_segment_bytes"] == 12 * MIB
    assert settings["rounds_otherwise"] is True


def test_devices_are_told_apart():
    allocator = Allocator()
    allocator.allocate(1000, device=0)
    allocator.allocate(5000, device=1)
    told = allocator.snapshot()
    assert memvelope.torch.ingest(told, device=1).requested_bytes == 5000
    assert memvelope.torch.ingest(told, device=2).reserved_bytes == 0
    with pytest.raises(ValueError, match="device=0"):
        memvelope.torch.ingest(told)


def test_versions_that_tell_less():
    allocator = torch_fake.played(3)
    told = allocator.snapshot()
    expected = naive(told)
    for segment in told["segments"]:
        # Before 2.1 the blocks had no address, and the state another name.
        del segment["allocated_size"], segment["active_size"], segment["device"]
        for block in segment["blocks"]:
            del block["address"]
            if block["state"] == "active_awaiting_free":
                block["state"] = "active_pending_free"
    assert sums_of(memvelope.torch.ingest(told)) == expected
    for segment in told["segments"]:
        for block in segment["blocks"]:
            del block["requested_size"]
    framework = memvelope.torch.ingest(told)
    assert framework.requested_bytes == framework.allocated_bytes == expected["allocated"]
    assert "do not say what was asked for" in framework.notes[0]


def test_what_is_unknown_is_ignored():
    allocator = torch_fake.played(5)
    told = allocator.snapshot()
    expected = naive(told)
    for number, segment in enumerate(told["segments"]):
        segment[f"new {number}"] = [1]
        segment[number] = None
        for block in segment["blocks"]:
            block[f"new {number}"] = "x"
            block[(1, 2)] = {}
    told["more"] = 1
    assert sums_of(memvelope.torch.ingest(told)) == expected


def broken():
    """A change to a segment or its second block, and what the error says."""
    return [
        (lambda s, b: s.update(total_size=-1), "total_size is negative"),
        (lambda s, b: s.update(total_size="big"), "total_size is no int but str"),
        (lambda s, b: s.update(total_size=1.5), "total_size is no int but float"),
        (lambda s, b: s.update(total_size=1 << 70), "total_size is negative or past"),
        (lambda s, b: s.update(total_size=0), "total_size is 0"),
        (lambda s, b: s.update(total_size=SMALL + 512), "its blocks have"),
        (lambda s, b: s.pop("total_size"), "total_size is missing"),
        (lambda s, b: s.update(address=(1 << 64) - 1), "past the last address"),
        (lambda s, b: s.update(segment_type="medium"), "segment_type is neither"),
        (lambda s, b: s.update(segment_pool_id=(1, 2, 3)), "segment_pool_id is no pair"),
        (lambda s, b: s.update(segment_pool_id=7), "segment_pool_id is no pair"),
        (lambda s, b: s.update(stream=None), "stream is no int but NoneType"),
        (lambda s, b: s.update(active_size=1), "active_size is 1"),
        (lambda s, b: s.update(blocks={}), "blocks is dict"),
        (lambda s, b: s.pop("blocks"), "blocks is missing"),
        (lambda s, b: s["blocks"].append(7), "it is no dict but int"),
        (lambda s, b: b.update(size=-512), "size is negative"),
        (lambda s, b: b.update(size=0), "size is 0"),
        (lambda s, b: b.update(size=1 << 50), "past the end"),
        (lambda s, b: b.pop("size"), "size is missing"),
        (lambda s, b: b.update(state="lost"), "state is none that is known"),
        (lambda s, b: b.update(state=None), "state is none that is known"),
        (lambda s, b: b.pop("state"), "state is missing"),
        (lambda s, b: b.update(requested_size=b["size"] + 1), "more than size"),
        (lambda s, b: b.update(address=5), "not where the last block ended"),
    ]


@pytest.mark.parametrize("change, problem", broken())
def test_what_does_not_hold_together_names_the_segment(change, problem):
    allocator = Allocator()
    for _ in range(3):
        allocator.allocate(5000)
    told = copy.deepcopy(allocator.snapshot())
    change(told["segments"][0], told["segments"][0]["blocks"][1])
    with pytest.raises(ReadAllocatorError, match="segment 0") as error:
        memvelope.torch.ingest(told)
    assert problem in error.value.problem
    assert "segment 0" in error.value.place


@pytest.mark.parametrize("told", [None, 7, {}, {"segments": 7}, [7], "segments", {"segments": None}])
def test_what_is_no_snapshot_at_all(told):
    with pytest.raises((ReadAllocatorError, ValueError)):
        memvelope.torch.ingest(told)


def test_random_changes_are_errors_or_numbers_that_add_up():
    draw = random.Random(1)
    values = [-1, 0, 1, 511, 1 << 63, 1 << 64, None, "x", 2.5, [], {}, True]
    for round_number in range(300):
        told = copy.deepcopy(torch_fake.played(round_number % 7, steps=60).snapshot())
        target = draw.choice(told["segments"])
        if draw.random() < 0.7:
            target = draw.choice(target["blocks"])
        target[draw.choice(list(target))] = draw.choice(values)
        try:
            framework = memvelope.torch.ingest(told)
        except (ReadAllocatorError, ValueError):
            continue
        sums = list(sums_of(framework).values())[:4]
        assert sums == sorted(sums)
        assert sum(framework.by_tag.values()) == framework.requested_bytes


# ---------------------------------------------------------------- asking torch


def test_importing_does_not_import_torch(child):
    code = """
import sys, memvelope.torch
assert 'torch' not in sys.modules
print(memvelope.torch.missing())
try:
    memvelope.torch.snapshot()
except memvelope.torch.TorchUnavailable as error:
    assert isinstance(error, memvelope.MemvelopeError)
with memvelope.torch.tag('weights'):
    pass
assert 'torch' not in sys.modules
"""
    assert "has not imported torch" in child(code)


def test_it_is_imported_when_it_is_asked_for(child):
    code = """
import sys, memvelope
assert 'memvelope.torch' not in sys.modules
print(memvelope.torch.__name__)
try:
    memvelope.no_such_thing
except AttributeError as error:
    assert 'no_such_thing' in str(error)
"""
    assert child(code) == "memvelope.torch\n"


def test_what_is_missing_is_said(torch, monkeypatch):
    fake = torch(initialised=False)
    assert "not initialised CUDA" in memvelope.torch.missing()
    with pytest.raises(memvelope.torch.TorchUnavailable):
        memvelope.torch.snapshot()
    assert fake.fake.state.snapshots == 0 and not fake.fake.state.initialised
    fake.fake.init()
    assert memvelope.torch.missing() is None
    fake.cuda.get_allocator_backend = lambda: "cudaMallocAsync"
    assert "cudaMallocAsync" in memvelope.torch.missing()
    del fake._C._cuda_memorySnapshot
    assert "without CUDA" in memvelope.torch.missing()


@pytest.mark.parametrize("takes_traces", [True, False])
def test_a_snapshot_of_now(torch, takes_traces):
    allocator = torch_fake.played(1)
    torch(allocator, takes_traces=takes_traces)
    framework = memvelope.torch.snapshot()
    assert sums_of(framework) == naive(allocator.snapshot())
    assert framework.notes == [] and framework.turnover > 0
    for device in (0, "cuda:0", "cuda"):
        assert memvelope.torch.snapshot(device).requested_bytes == framework.requested_bytes


def test_a_snapshot_that_is_disturbed_is_read_again(torch):
    allocator = Allocator()
    fake = torch(allocator)
    stats, disturbances = allocator.stats, [2]

    def disturbed(device):
        if disturbances[0]:
            disturbances[0] -= 1
            allocator.allocate(1000)
        return stats(device)

    fake.cuda.memory_stats_as_nested_dict = disturbed
    assert memvelope.torch.snapshot().notes == []
    assert fake.fake.state.snapshots > 1
    disturbances[0] = 1000
    assert "at work in every try" in memvelope.torch.snapshot().notes[0]


def test_a_memory_fraction_is_a_limit(torch):
    fake = torch()
    fake._C._cuda_getMemoryFraction = lambda device: 0.25
    fake.cuda.get_device_properties = lambda device: type("Properties", (), {"total_memory": 400})
    assert memvelope.torch.snapshot().settings["limit_bytes"] == 100


#: A program whose stand-in for torch takes its segments from the (simulated) driver.
ON_DRIVER = """
import ctypes, json, sys
sys.path.insert(0, TESTS)
import memvelope, memvelope.torch, torch_fake

cuda = ctypes.CDLL('libcuda.so.1')

def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    assert code == 0, (name, code)

def from_driver(size):
    address = ctypes.c_uint64()
    call('cuMemAlloc_v2', ctypes.byref(address), ctypes.c_size_t(size))
    return address.value

allocator = torch_fake.Allocator()
allocator.driver = from_driver
sys.modules['torch'] = torch_fake.module(allocator)
with memvelope.Session.start() as session:
    call('cuInit', 0)
    device, context = ctypes.c_int(), ctypes.c_void_p()
    call('cuDeviceGet', ctypes.byref(device), 0)
    call('cuDevicePrimaryCtxRetain', ctypes.byref(context), device)
    call('cuCtxSetCurrent', context)
    [before] = session.snapshot_now()['devices']
    with memvelope.torch.tag('weights'):
        allocator.allocate(30 << 20)
        allocator.allocate(1000)
    gone = allocator.allocate(50 << 20)
    allocator.allocate((3 << 20) - 5)
    allocator.free(gone)
    framework = memvelope.torch.snapshot()
    [found] = session.snapshot_now()['devices']
    fits = [session.would_fit(size, 0, 'framework') for size in (40 << 20, 1 << 50)]
    allocator.total = 0
    watch = memvelope.torch.watch_oom()
    try:
        allocator.allocate(1 << 50)
    except torch_fake.OutOfMemoryError:
        pass
told = [framework.as_dict(), before, found]
print(json.dumps([*told, fits, watch.last, watch.problems]))
"""


def test_a_session_has_the_allocators_plane_and_its_balance_closes(child, sim_libs):
    tests = str(pathlib.Path(__file__).parent)
    printed = child(f"TESTS = {tests!r}\n{ON_DRIVER}", LD_LIBRARY_PATH=sim_libs)
    framework, before, found, (fits, fits_not), report, problems = json.loads(printed)
    assert found["framework"]["requested_bytes"] == framework["requested_bytes"]
    balance = found["balance"]
    lines, others = (
        {line["term"]: line["bytes"] for line in it["lines"]}
        for it in (balance, before["balance"])
    )
    assert sum(lines.values()) == balance["used_bytes"] and not balance["is_torn"]
    assert lines["weights"] == (30 << 20) + 1000
    assert lines["cached"] == (50 << 20) + (SMALL - 1024) + (LARGE - (3 << 20))
    assert lines["rounding"] >= 5 + 24
    # Whatever there was before: of torch's memory nothing is unaccounted.
    assert lines["unaccounted"] == others["unaccounted"], balance
    assert (fits["fits"], fits["from"], fits_not["fits"]) == ("yes", "cached", "no")
    assert problems == [] and report["problems"] == [], report
    assert report["snapshot"]["balance"]["used_bytes"] == balance["used_bytes"]
    assert report["would_fit"]["fits"] == "no" and "no, because" in report["text"]


# ---------------------------------------------------------------- tags


def test_blocks_of_a_scope_have_its_tag(torch):
    allocator = Allocator()
    torch(allocator)
    allocator.allocate(100)
    with memvelope.torch.tag("weights"):
        weights = allocator.allocate(5 * MIB)
        with memvelope.torch.tag("kv"):
            allocator.allocate(6 * MIB)
    allocator.allocate(200)
    tags = memvelope.torch.snapshot().by_tag
    assert (tags["weights"], tags["kv_cache"], tags["untagged"]) == (5 * MIB, 6 * MIB, 300)
    allocator.free(weights)
    tags = memvelope.torch.snapshot().by_tag
    assert (tags["weights"], tags["kv_cache"], tags["untagged"]) == (0, 6 * MIB, 300)
    allocator.segments.clear()
    assert not any(memvelope.torch.snapshot().by_tag.values())


def test_a_scope_in_which_cuda_is_initialised(torch):
    allocator = Allocator()
    fake = torch(allocator, initialised=False)
    with memvelope.torch.tag("weights", "cuda:1"):
        fake.fake.init()
        allocator.allocate(5000, device=1)
        allocator.allocate(7000, device=0)
    assert memvelope.torch.snapshot(1).by_tag["weights"] == 5000
    assert memvelope.torch.snapshot(0).by_tag["weights"] == 0
    allocator.segments.clear()
    memvelope.torch.snapshot(1)


def test_a_scope_is_left_by_an_exception(torch):
    torch()
    with pytest.raises(KeyError), memvelope.torch.tag("activations"):
        raise KeyError
    with pytest.raises(ValueError, match="weights"):
        memvelope.torch.tag("no tag")


def test_an_allocator_that_cannot_be_read_stops_no_program(torch):
    allocator = Allocator()
    fake = torch(allocator)
    read = fake._C._cuda_memorySnapshot
    fake._C._cuda_memorySnapshot = lambda argument: {"segments": [7]}
    allocator.allocate(100)
    with pytest.warns(RuntimeWarning, match="got no tag"), memvelope.torch.tag("weights"):
        # What was there before is not known, so nothing has the tag.
        fake._C._cuda_memorySnapshot = read
    assert memvelope.torch.snapshot().by_tag["weights"] == 0
    with pytest.warns(RuntimeWarning, match="segment 0"), memvelope.torch.tag("weights"):
        fake._C._cuda_memorySnapshot = lambda argument: {"segments": [7]}


# ---------------------------------------------------------------- out of memory


def test_the_picture_is_taken_before_the_exception(torch, tmp_path):
    allocator = Allocator(total=64 * MIB)
    torch(allocator)
    path = tmp_path / "oom.json"
    with memvelope.torch.watch_oom(path) as watch:
        assert watch.is_watching and watch.last is None
        allocator.allocate(40 * MIB)
        with pytest.raises(torch_fake.OutOfMemoryError):
            try:
                allocator.allocate(30 * MIB)
            finally:
                assert watch.last is not None
    report = watch.last
    assert watch.problems == [] and report["problems"] == []
    assert (report["device"], report["taken_bytes"], report["free_bytes"]) == (
        0,
        30 * MIB,
        24 * MIB,
    )
    assert report["framework"]["requested_bytes"] == 40 * MIB
    assert "needed 30.0 MiB more" in report["text"] and "40.0 MiB asked for" in report["text"]
    assert json.loads(path.read_text()) == [report]
    assert [entry.name for entry in tmp_path.iterdir()] == ["oom.json"]
    with pytest.raises(torch_fake.OutOfMemoryError):
        allocator.allocate(30 * MIB)
    assert watch.reports == [report] and not watch.is_watching


def test_reports_are_bounded_and_observers_attached_once(torch):
    allocator = Allocator(total=0)
    torch(allocator)
    first, second = memvelope.torch.watch_oom(keep=2), memvelope.torch.watch_oom()
    for _ in range(20):
        with pytest.raises(torch_fake.OutOfMemoryError):
            allocator.allocate(1)
    assert (len(first.reports), len(second.reports), len(allocator.observers)) == (2, 16, 1)
    for keep in (0, 17):
        with pytest.raises(ValueError, match="1 to 16"):
            memvelope.torch.watch_oom(keep=keep)


def test_an_observer_raises_nothing_into_torch(torch, tmp_path, monkeypatch):
    allocator = Allocator(total=0)
    fake = torch(allocator)
    watch = memvelope.torch.watch_oom(tmp_path / "no such folder" / "oom.json")

    def allocate():
        with pytest.raises(torch_fake.OutOfMemoryError):
            allocator.allocate(1)

    allocate()
    assert "writing" in watch.problems[-1] and watch.last["problems"] == []
    fake._C._cuda_memorySnapshot = lambda argument: 1 / 0
    allocate()
    assert "ZeroDivisionError" in watch.last["problems"][0]
    assert watch.last["framework"] is None and "needed" in watch.last["text"]
    monkeypatch.setattr(memvelope.torch, "_report", lambda *_: sys.exit(3))
    allocate()
    assert "SystemExit" in watch.problems[-1]


def test_an_observer_does_not_recurse(torch):
    allocator = Allocator(total=0)
    fake = torch(allocator)
    watch = memvelope.torch.watch_oom()
    read = fake._C._cuda_memorySnapshot

    def fails(argument):
        with pytest.raises(torch_fake.OutOfMemoryError):
            allocator.allocate(1)
        return read(argument)

    fake._C._cuda_memorySnapshot = fails
    with pytest.raises(torch_fake.OutOfMemoryError):
        allocator.allocate(1)
    assert len(watch.reports) == 1


def test_watching_begins_when_cuda_does(torch):
    allocator = Allocator(total=0)
    fake = torch(allocator, initialised=False)
    watch = memvelope.torch.watch_oom()
    assert allocator.observers == [] and not fake.fake.state.initialised
    fake.fake.init()
    with pytest.raises(torch_fake.OutOfMemoryError):
        allocator.allocate(1)
    assert len(watch.reports) == 1


def test_an_allocator_without_observers(torch):
    fake = torch()

    def refuse(_observer):
        raise RuntimeError("cudaMallocAsync does not yet support attachOutOfMemoryObserver")

    fake._C._cuda_attach_out_of_memory_observer = refuse
    with pytest.raises(memvelope.torch.TorchUnavailable, match="does not yet support"):
        memvelope.torch.watch_oom()
    lazy = torch(initialised=False)
    lazy._C._cuda_attach_out_of_memory_observer = refuse
    watch = memvelope.torch.watch_oom()
    lazy.fake.init()
    assert "does not yet support" in watch.problems[0]


def test_threads_that_run_out_at_once(torch):
    allocator = Allocator(total=0)
    torch(allocator)
    watch = memvelope.torch.watch_oom()

    def run():
        for _ in range(20):
            with pytest.raises(torch_fake.OutOfMemoryError):
                allocator.allocate(1)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(watch.reports) == 16 and watch.problems == []


def test_with_a_real_torch():
    torch = pytest.importorskip("torch", reason="ignored: torch is not installed")
    if not torch.cuda.is_available():
        assert memvelope.torch.missing() is not None
        return
    assert not torch.cuda.is_initialized() and "initialised" in memvelope.torch.missing()
    with memvelope.torch.tag("weights"):
        kept = torch.empty(3 * MIB, dtype=torch.uint8, device="cuda")
    framework = memvelope.torch.snapshot()
    assert framework.by_tag["weights"] == kept.numel()
    assert framework.reserved_bytes == torch.cuda.memory_reserved()
    assert framework.allocated_bytes == torch.cuda.memory_allocated()
