"""`Session` and `Follow`, as `_native` has them. Only type checkers read this file."""

from os import PathLike
from types import TracebackType
from typing import Any, Literal, SupportsIndex, final

from typing_extensions import Self

from ._native import Envelope, Framework, Gate, Plan
from ._types import _Document, _Fit

__all__ = ["Follow", "Session"]

@final
class Session:
    """A handle to the process's recording session; there is one a process. Leaving it as a `with`
    block stops it."""

    @staticmethod
    def start() -> Session:
        """Starts the session. Raises `SessionExistsError` or `StartThreadError`."""
    @staticmethod
    def current() -> Session | None: ...
    def mode(self) -> dict[str, Any] | str:
        """How it records, or why it sees nothing."""
    def owner_path(self) -> str | None:
        """Where the copy lies that records, if that is another one; this session asks it."""
    def load_reports(self) -> list[dict[str, Any]]: ...
    def snapshot(self) -> dict[str, Any]:
        """One epoch of everything recorded so far, with what the planes said last."""
    def snapshot_now(self) -> dict[str, Any]:
        """The same with the planes asked anew: microseconds a device, and milliseconds where NVML
        lists processes (at most once a second). `docs/snapshot-format.md` has every key."""
    def snapshot_text(self, width: int = 100) -> str:
        """`snapshot_now()` for people: what is used and by what, term by term, what would fit next,
        and what was not seen, in lines of at most `width` columns (80 at least)."""
    def would_fit(
        self,
        nbytes: SupportsIndex,
        device: SupportsIndex = 0,
        via: Literal["framework", "driver"] | SupportsIndex | None = None,
    ) -> _Fit:
        """Whether so many bytes would be had now; `fits` is "yes", "no" (with `because`, and
        `remedies` that would help) or "unknown" (with what is `missing`).

        `via` says who would be asked: PyTorch's allocator ("framework"), the driver, or a memory
        pool by its handle. Without it: the allocator where the session knows what it holds, else the
        driver. `device` is the CUDA ordinal. Asks the planes anew, as `snapshot_now()` does.
        """
    def _accept_framework(self, framework: Framework) -> None: ...
    def self_cost(self) -> dict[str, Any]: ...
    def report(self) -> dict[str, Any]:
        """Everything in one: mode and state, clock, snapshot, what was lost and what it cost."""
    def pause(self, why: str) -> None:
        """Leaves CUPTI to somebody else. Raises `FlushTimeoutError` or `CuptiCallError`."""
    def resume(self) -> bool:
        """Ends that. True if it records now; else as soon as CUPTI is given back."""
    def follow(
        self,
        gate: Gate,
        plan: Plan | Envelope | _Document,
        *,
        device: int = 0,
        budget_blocks: int | None = None,
        floor_blocks: int = 0,
        rise_blocks: int | None = None,
        rise_readings: int = 10,
        rise_after_s: float = 60.0,
        is_loaded: bool = False,
        kv_untagged_bytes: int | None = None,
        keeps_cached: bool = False,
        by_hand: bool = False,
    ) -> Follow:
        """Lets a gate follow the measured envelope while the result is kept. Raises
        `ConfigureGateError`, `PlanRefused`, and what `Envelope.plan` raises."""
    def sample(self) -> None: ...
    def flush(self, timeout_s: float = 5.0) -> None:
        """Waits for the records of completed work. Raises `FlushTimeoutError`."""
    def write_trace(
        self, path: str | PathLike[str], bytes_max: int = 67_108_864
    ) -> dict[str, int]:
        """Writes the sampled trace as Chrome trace JSON. Raises `WriteFileError`."""
    def stop(self, timeout_s: float = 5.0) -> dict[str, Any]:
        """Ends the session; returns the last snapshot. Raises `FlushTimeoutError`."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> bool: ...

@final
class Follow:
    """A gate follows the measured envelope as long as this is kept."""

    def status(self) -> dict[str, Any]:
        """Where it stands."""
    def update(self) -> dict[str, Any]:
        """Takes what was measured last now; returns `status()`."""
    def stop(self) -> None:
        """Ends it; the gate keeps its capacity."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> bool: ...
