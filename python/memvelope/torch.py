"""What PyTorch's caching allocator holds, block by block, and what was there when it ran out.

    memvelope.torch.snapshot()              # the allocator's plane of a device, well under 1 ms
    with memvelope.torch.tag("weights"):    # blocks that come to be in use meanwhile are weights
        model.to("cuda")
    watch = memvelope.torch.watch_oom("oom.json")

It looks on: it never replaces the allocator, never initialises CUDA, and does not import torch; a
program that has not imported it holds nothing.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock, get_ident, interrupt_main
from typing import TYPE_CHECKING

from ._native import (
    Framework,
    MemvelopeError,
    Session,
    _BlockScope,
    _tag_number,
    _torch_accept,
    _torch_epoch,
    _torch_ingest,
    _torch_turnover,
)
from ._tag import tag as _driver_tag

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike
    from typing import Any

__all__ = [
    "Framework",
    "OomWatch",
    "TorchUnavailable",
    "ingest",
    "missing",
    "snapshot",
    "tag",
    "watch_oom",
]


class TorchUnavailable(MemvelopeError):
    """There is no caching allocator to look at; says what is missing."""


def missing() -> str | None:
    """What is missing so that `snapshot()` has something to look at, in a sentence; else `None`."""
    torch = sys.modules.get("torch")
    if torch is None:
        return "this program has not imported torch: its allocator holds nothing"
    cuda = getattr(torch, "cuda", None)
    if not hasattr(getattr(torch, "_C", None), "_cuda_memorySnapshot"):
        return "this torch was built without CUDA: it has no caching allocator for GPUs"
    if cuda is None or not cuda.is_initialized():
        return "torch has not initialised CUDA: its allocator holds nothing yet"
    backend = getattr(cuda, "get_allocator_backend", lambda: "native")()
    if backend != "native":
        return f"torch's allocator is {backend!r}, which has no blocks to look at"
    return None


def _torch() -> Any:
    why = missing()
    if why is not None:
        raise TorchUnavailable(why)
    return sys.modules["torch"]


def _index(torch: Any, device: Any) -> int:
    """The number of a device as torch's own functions take it."""
    if device is None:
        return int(torch.cuda.current_device())
    if isinstance(device, int) and not isinstance(device, bool):
        return device
    index = torch.device(device).index
    return int(torch.cuda.current_device() if index is None else index)


def _raw_snapshot(torch: Any) -> Any:
    """All of the allocator's segments, with its settings. Without traces where this version can leave
    them out: with them, and with history on, a snapshot takes a thousand times as long."""
    read = torch._C._cuda_memorySnapshot
    code = getattr(torch.cuda.memory_snapshot, "__code__", None)
    if code is not None and "include_traces" in code.co_varnames:
        return read((0, 0, False))
    try:
        return read(None)
    except TypeError:  # before 2.6 it takes no argument
        return read()


def _stats(torch: Any, device: int) -> Any:
    return torch.cuda.memory_stats_as_nested_dict(device)


def _limit_bytes(torch: Any, device: int) -> int | None:
    """What `set_per_process_memory_fraction` allows; `None` without limit, or where it is not told."""
    fraction_of = getattr(torch._C, "_cuda_getMemoryFraction", None)
    if fraction_of is None:
        return None
    fraction = float(fraction_of(device))
    if not 0 < fraction < 1:
        return None
    return int(fraction * int(torch.cuda.get_device_properties(device).total_memory))


#: Tries to read segments between two equal counters.
_TRIES = 4


def _read(torch: Any, device: int) -> Framework:
    """One moment of the allocator: its counters are the same before and after."""
    limit_bytes = _limit_bytes(torch, device)
    notes: list[str] = []
    for attempt in range(1, _TRIES + 1):
        before = _stats(torch, device)
        segments = _raw_snapshot(torch)
        after = _stats(torch, device)
        if _torch_turnover(before) == _torch_turnover(after):
            break
        if attempt == _TRIES:
            notes.append(
                "the allocator was at work in every try: segments and statistics are of different "
                "moments, each by itself is right"
            )
    return _torch_ingest(segments, after, device, limit_bytes, notes)


def snapshot(device: Any = None) -> Framework:
    """What the caching allocator holds on a device (the current one unless given), now. Costs 0.2 ms
    and upwards with the number of blocks; waits for no stream.

    A running session is told, so that its snapshots have it. Raises `TorchUnavailable` where there is
    no such allocator, and `ReadAllocatorError` where what it tells does not hold together.
    """
    torch = _torch()
    index = _index(torch, device)
    # A running session asks in the middle of reading its own planes: one moment of all.
    framework = _torch_epoch(index, lambda: _read(torch, index))
    if framework is None:
        framework = _read(torch, index)
        _torch_accept(framework)
    return framework


def ingest(
    snapshot: dict[str, Any] | list[Any],
    stats: dict[str, Any] | None = None,
    *,
    device: int | None = None,
) -> Framework:
    """The same from what `torch.cuda.memory._snapshot()` or `memory_snapshot()` returned, in this
    process or another, with `torch.cuda.memory_stats()` if at hand. Needs neither torch nor a GPU.

    `device` says which one is meant where the snapshot has several. Of a million blocks, some tens of
    milliseconds, in which no other thread of Python runs.

    Raises `ReadAllocatorError`, which names the segment, where it does not hold together, and
    `ValueError` where a device must be named.
    """
    return _torch_ingest(snapshot, stats, device)


class tag:  # noqa: N801, as memvelope.tag is called
    """Blocks of the caching allocator that come to be in use within this are for `name`, as are driver
    allocations (`memvelope.tag`, which this enters, too).

        with memvelope.torch.tag("weights"):
            model.to("cuda")

    The allocator is looked at when it begins and when it ends (0.2 ms each, more with many blocks):
    what is in use then and was not before has the tag until it is freed. So what is freed again within
    it needs none; blocks that *other threads* came to use in the same time get it as well, which matters
    where a server works while it loads; and a block whose memory is freed and handed out again for a
    request of the same size, unseen in between, keeps the former tag. Of nested ones the innermost
    holds. On one device if it is named, else on all.

    Names as in `memvelope.tag`, and `ValueError` for another. Without torch, it is `memvelope.tag`.
    """

    __slots__ = ("_device", "_driver", "_number", "_scopes")

    def __init__(self, name: str, device: Any = None) -> None:
        self._number = _tag_number(name)
        self._driver = _driver_tag(name)
        self._device = device
        self._scopes: list[_BlockScope | None] = []

    def _look(self) -> tuple[Any, int | None]:
        if missing() is not None:
            return None, None  # nothing is in use
        torch = _torch()
        device = None if self._device is None else _index(torch, self._device)
        return _raw_snapshot(torch), device

    def __enter__(self) -> tag:
        scope = None
        try:
            scope = _BlockScope(*self._look())
        except Exception as error:
            _warn_of_tag(error)
        self._driver.__enter__()
        self._scopes.append(scope)
        return self

    def __exit__(self, *exception: object) -> None:
        self._driver.__exit__(*exception)
        scope = self._scopes.pop()
        if scope is None:
            return
        try:
            scope.end(self._number, *self._look())
        except Exception as error:
            _warn_of_tag(error)


def _warn_of_tag(error: Exception) -> None:
    """Blocks without a tag are no reason for a model not to load."""
    from warnings import warn

    text = f"blocks got no tag, because the allocator could not be read: {error}"
    warn(text, RuntimeWarning, stacklevel=3)


# ---------------------------------------------------------------- out of memory

#: Reports that are kept at most, by each watch.
_KEEP_MAX = 16
#: Spaces that a report has at most: the largest ones.
_SPACES_MAX = 64

_lock = allocate_lock()
_watches: list[OomWatch] = []
_is_attached = False
#: Threads that are making a report.
_reporting: set[int] = set()


class OomWatch:
    """What was there when PyTorch's allocator ran out of memory. Made by `watch_oom`."""

    __slots__ = ("_keep", "_path", "_problems", "_reports")

    def __init__(self, path: str | PathLike[str] | None, keep: int) -> None:
        self._path = path
        self._keep = keep
        self._reports: list[dict[str, Any]] = []
        self._problems: list[str] = []

    @property
    def reports(self) -> list[dict[str, Any]]:
        """The last ones, oldest first."""
        return list(self._reports)

    @property
    def last(self) -> dict[str, Any] | None:
        """The last one."""
        reports = self._reports
        return reports[-1] if reports else None

    @property
    def problems(self) -> list[str]:
        """What went wrong in making or writing reports; it never reached the program."""
        return list(self._problems)

    @property
    def is_watching(self) -> bool:
        """Whether it still records."""
        return self in _watches

    def stop(self) -> None:
        """Nothing more is recorded. torch cannot forget an observer: it stays, and does nothing."""
        with _lock:
            if self in _watches:
                _watches.remove(self)

    def __enter__(self) -> OomWatch:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def _record(self, report: dict[str, Any]) -> None:
        self._reports = [*self._reports, report][-self._keep :]
        if self._path is not None:
            try:
                _write(self._path, self._reports)
            except Exception as error:
                self._note(f"writing {self._path} failed: {error}")

    def _note(self, problem: str) -> None:
        self._problems = [*self._problems, problem][-_KEEP_MAX:]


def watch_oom(path: str | PathLike[str] | None = None, *, keep: int = _KEEP_MAX) -> OomWatch:
    """Records the picture before `torch.OutOfMemoryError` reaches the program: what the allocator and
    the driver held, whether the request would have fit and why not, in words. `last` has it, and
    `path`, if given, the last `keep` (at most 16) as JSON, replaced as a whole.

    It takes effect when torch initialises CUDA, if it has not yet. Never raises into torch: what goes
    wrong is in `problems`. torch calls its observers after it has released the allocator's lock and
    before it raises, on the thread that asked (`DeviceCachingAllocator::malloc`), so looking at the
    allocator from there is safe.

    Raises `TorchUnavailable` where torch is not imported or knows no such observers, and `ValueError`
    for `keep`.
    """
    if not 1 <= keep <= _KEEP_MAX:
        raise ValueError(f"keep={keep}: expected 1 to {_KEEP_MAX}")
    torch = sys.modules.get("torch")
    if torch is None:
        hint = "hint: import it before watch_oom()"
        raise TorchUnavailable(f"this program has not imported torch\n{hint}")
    attach = getattr(torch._C, "_cuda_attach_out_of_memory_observer", None) or getattr(
        torch._C, "_cuda_attachOutOfMemoryObserver", None
    )
    if attach is None:
        raise TorchUnavailable("this torch has no observers of memory running out: CUDA's has, from 2.0")
    if path is not None:
        import os

        # The program may go elsewhere until then.
        path = os.path.abspath(path)
    watch = OomWatch(path, keep)
    with _lock:
        _watches.append(watch)
    try:
        _attach(torch, attach)
    except Exception as error:  # cudaMallocAsync and some pluggable allocators have none
        watch.stop()
        raise TorchUnavailable(f"torch's allocator takes no observer: {error}") from error
    return watch


def _attach(torch: Any, attach: Callable[[Callable[..., None]], None]) -> None:
    """Once a process: each call would add another observer."""
    global _is_attached
    with _lock:
        if _is_attached:
            return
        _is_attached = True
    try:
        # The observer goes to the allocators of all devices, and there are none before CUDA is
        # initialised. `_lazy_call` is how torch itself puts things off until then.
        if torch.cuda.is_initialized():
            attach(_observe)
        else:
            torch.cuda._lazy_call(lambda: _attach_late(attach))
    except BaseException:
        _is_attached = False
        raise


def _attach_late(attach: Callable[[Callable[..., None]], None]) -> None:
    """In the middle of torch's initialisation, which must not fail because of us."""
    try:
        attach(_observe)
    except Exception as error:
        for watch in list(_watches):
            watch._note(f"torch's allocator takes no observer: {error}")


def _observe(device: int, taken_bytes: int, limit_bytes: int, free_bytes: int) -> None:
    """Called by torch on the thread whose request failed. An exception would come out of the
    allocation in place of `OutOfMemoryError`: none leaves it."""
    watches = list(_watches)
    thread = get_ident()
    if not watches or thread in _reporting:
        return
    _reporting.add(thread)
    try:
        report = _report(device, taken_bytes, limit_bytes, free_bytes)
        for watch in watches:
            watch._record(report)
    except KeyboardInterrupt:
        interrupt_main()  # for the program, once we are out of torch
    except BaseException as error:
        for watch in watches:
            watch._note(f"making a report failed: {type(error).__name__}: {error}")
    finally:
        _reporting.discard(thread)


def _report(device: int, taken_bytes: int, limit_bytes: int, free_bytes: int) -> dict[str, Any]:
    import time

    report: dict[str, Any] = {
        "schema": 1,
        "unix_time_s": time.time(),
        "device": device,
        # torch tells what it would have taken from the driver, not what was asked for.
        "taken_bytes": taken_bytes,
        "limit_bytes": limit_bytes,
        "free_bytes": free_bytes,
        "framework": None,
        "snapshot": None,
        "would_fit": None,
        "problems": [],
    }

    def part(name: str, make: Callable[[], Any]) -> Any:
        # One part that fails leaves the others.
        try:
            report[name] = make()
        except Exception as error:
            report["problems"].append(f"{name}: {type(error).__name__}: {error}")
        return report[name]

    framework: list[Framework] = []

    def look() -> dict[str, Any]:
        framework.append(snapshot(device))
        found: dict[str, Any] = framework[0].as_dict(segments=False)
        largest = sorted(found["spaces"], key=lambda it: -int(it["reserved_bytes"]))
        found["spaces"] = largest[:_SPACES_MAX]
        return found

    part("framework", look)
    session = Session.current()
    if session is not None:
        part("snapshot", lambda: _of_device(session, device))
        part("would_fit", lambda: session.would_fit(taken_bytes, device))
    report["text"] = _text(report, framework[0] if framework else None)
    return report


def _of_device(session: Session, device: int) -> dict[str, Any] | None:
    """The driver plane and the balance, without what is of no device."""
    whole: dict[str, Any] = session.snapshot()
    mine = [it for it in whole["devices"] if it["totals"]["device"] == device]
    for found in mine:
        found["framework"] = None  # it stands in the report already
    return mine[0] if mine else None


def _size(count: int) -> str:
    return f"{count / (1 << 20):,.1f} MiB"


def _text(report: dict[str, Any], framework: Framework | None) -> str:
    """The picture in words."""
    taken, free, limit = report["taken_bytes"], report["free_bytes"], report["limit_bytes"]
    lines = [
        f"PyTorch needed {_size(taken)} more from device {report['device']}, of which {_size(free)} "
        f"were free (it may use {_size(limit)})."
    ]
    if framework is not None:
        it = framework
        lines.append(
            f"Its allocator holds {_size(it.reserved_bytes)}: {_size(it.requested_bytes)} asked for, "
            f"{_size(it.allocated_bytes - it.requested_bytes)} rounding, "
            f"{_size(it.active_bytes - it.allocated_bytes)} awaiting a stream, "
            f"{_size(it.cached_bytes)} cached, of which empty_cache() would give back "
            f"{_size(it.releasable_bytes)}."
        )
        tags = [f"{name} {_size(count)}" for name, count in it.by_tag.items() if count]
        lines.append(f"By tag: {', '.join(tags) or 'nothing'}.")
        if it.settings["limit_bytes"] is not None:
            lines.append("A per-process memory fraction is set: raising it makes room.")
        if it.stranded_bytes >= taken and not it.settings["expandable_segments"]:
            lines.append(
                f"{_size(it.stranded_bytes)} are stranded between blocks in use: with "
                "PYTORCH_ALLOC_CONF=expandable_segments:True less of that would be."
            )
        lines.extend(f"Note: {note}." for note in it.notes)
    fit = report["would_fit"]
    if isinstance(fit, dict) and fit.get("because"):
        lines.append(str(fit["because"]))
    return "\n".join(lines)


def _write(path: str | PathLike[str], reports: list[dict[str, Any]]) -> None:
    """Under its final name stands a whole file, always."""
    import json
    import os

    final = os.fspath(path)
    draft = f"{final}.{os.getpid()}.{get_ident()}.tmp"
    try:
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(reports, file)
        os.replace(draft, final)
    except BaseException:
        try:
            os.unlink(draft)
        except OSError:
            pass
        raise
