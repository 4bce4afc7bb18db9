"""What `memvelope.torch` is made of, as `_native` has it. Only type checkers read this file."""

from collections.abc import Callable
from typing import Any, final

from typing_extensions import Self

__all__ = [
    "Framework",
    "_BlockScope",
    "_torch_accept",
    "_torch_builder_ns",
    "_torch_epoch",
    "_torch_ingest",
    "_torch_turnover",
]

@final
class Framework:
    """What the caching allocator of PyTorch holds on one device, and what of it is in use.

    requested <= allocated <= active <= reserved, all in bytes: between the first two lies rounding,
    then what was freed but awaits a stream, then what is cached.
    """

    @property
    def device(self) -> int:
        """The device's index."""
    @property
    def turnover(self) -> int:
        """Operations of the allocator so far: where two are equal, it did nothing in between."""
    @property
    def requested_bytes(self) -> int:
        """Bytes that were asked for and not freed."""
    @property
    def allocated_bytes(self) -> int:
        """The same, rounded."""
    @property
    def active_bytes(self) -> int:
        """The same, and what was freed but awaits a stream."""
    @property
    def reserved_bytes(self) -> int:
        """Bytes of all segments."""
    @property
    def cached_bytes(self) -> int:
        """Bytes in no block that is in use or awaits a stream."""
    @property
    def releasable_bytes(self) -> int:
        """Of the cached bytes, those that `torch.cuda.empty_cache()` gives back."""
    @property
    def stranded_bytes(self) -> int:
        """Of the cached bytes, those that stay when the cache is emptied."""
    @property
    def blocks(self) -> int:
        """Blocks, in use or not."""
    @property
    def notes(self) -> list[str]:
        """What somebody should know who relies on the numbers."""
    @property
    def by_tag(self) -> dict[str, int]:
        """Requested bytes by tag."""
    @property
    def spaces(self) -> list[dict[str, Any]]:
        """By pool, stream and size class; a request is served from one of them."""
    @property
    def settings(self) -> dict[str, Any]:
        """The allocator's settings, as far as it tells them."""
    def as_dict(self, *, segments: bool = True) -> dict[str, Any]:
        """Everything, as it stands in a snapshot. `segments=False` leaves their list out."""

@final
class _BlockScope:
    """A scope in which blocks are tagged, from what was in use when it began."""

    def __new__(cls, snapshot: Any = None, device: int | None = None) -> Self: ...
    def end(self, tag: int, snapshot: Any = None, device: int | None = None) -> int:
        """It is over; returns how many blocks have the tag since."""

def _torch_ingest(
    snapshot: Any,
    stats: Any = None,
    device: int | None = None,
    limit_bytes: int | None = None,
    notes: list[str] = ...,
) -> Framework:
    """The allocator's plane of a device, from what PyTorch told. Raises `ReadAllocatorError`, and
    `ValueError` where a device must be named."""

def _torch_accept(framework: Framework) -> None:
    """Tells the running session, if there is one."""

def _torch_epoch(device: int, read: Callable[[], Framework]) -> Framework | None:
    """Reads the planes of a device together; what `read` told last, `None` where nobody asked."""

def _torch_builder_ns(blocks: int, a_segment: int) -> int:
    """What the builder alone takes. For a bench."""

def _torch_turnover(stats: Any) -> int:
    """A number that changes with whatever the allocator does."""
