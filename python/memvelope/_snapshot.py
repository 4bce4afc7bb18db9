"""What the running session knows of this process, asked anew."""

from __future__ import annotations

import sys

from ._native import MemvelopeError, Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from ._types import _Fit


def _current() -> Session | None:
    """The running session, once it knows what PyTorch's allocator holds now."""
    session = Session.current()
    torch = sys.modules.get("torch")
    if session is None or torch is None:
        return session
    from . import torch as plane

    if plane.missing() is None:
        for device in range(torch.cuda.device_count()):
            try:
                if torch.cuda.memory_reserved(device) > 0:
                    plane.snapshot(device)
            except MemvelopeError:
                pass  # the driver's side of it stands all the same
    return session


def snapshot() -> dict[str, Any] | None:
    """One epoch of everything the running session recorded, with the planes asked anew, PyTorch's
    allocator among them: where every byte of VRAM is stands in `devices[i]["balance"]`, and
    `docs/snapshot-format.md` has every key. `None` if no session runs."""
    session = _current()
    return session.snapshot_now() if session is not None else None


def snapshot_text(width: int = 100) -> str:
    """The same for people: `print(memvelope.snapshot_text())`."""
    session = _current()
    if session is None:
        return "no session runs: memvelope.Session.start() starts one"
    return session.snapshot_text(width)


def would_fit(
    nbytes: int, device: int = 0, via: Literal["framework", "driver"] | int | None = None
) -> _Fit:
    """Whether so many bytes would be had now, and if not, why and what would help: as
    `Session.would_fit`, of the running session, with PyTorch's allocator asked anew."""
    session = _current()
    if session is None:
        return {"fits": "unknown", "missing": "no session runs: Session.start() starts one"}
    return session.would_fit(nbytes, device, via)
