"""Keeps an inference process inside the memory of its GPU.

    plan = memvelope.plan("model/config.json", gpu="h100")
    gate = memvelope.Gate.from_plan(plan)
    with gate.admit(prompt_tokens=700, max_new_tokens=300) as lease:
        lease.grow(1)

A gate on a declared budget (`Gate.from_blocks`) needs no model, no driver and no GPU. Importing
this package loads none of them, and neither torch nor vllm.
"""

from ._native import (
    ConfigureGateError,
    CuptiCallError,
    DriverCallError,
    Envelope,
    FlushTimeoutError,
    Follow,
    Framework,
    Gate,
    InternalError,
    Lease,
    LeaseReleased,
    LoadLibraryError,
    MemvelopeError,
    MissingSymbolError,
    NoRoomError,
    NvmlCallError,
    PastMaximum,
    Plan,
    PlanRefused,
    ReadAllocatorError,
    ReadConfigError,
    ReadFileError,
    ReadModelError,
    Rejected,
    Session,
    SessionExistsError,
    StartThreadError,
    Term,
    UnknownModelError,
    WriteFileError,
    __version__,
    doctor,
    plan,
)
from ._profile import Profile, profile
from ._snapshot import snapshot, snapshot_text, would_fit
from ._tag import Tag, tag

TYPE_CHECKING = False

__all__ = [
    "ConfigureGateError",
    "CuptiCallError",
    "DriverCallError",
    "Envelope",
    "FlushTimeoutError",
    "Follow",
    "Framework",
    "Gate",
    "InternalError",
    "Lease",
    "LeaseReleased",
    "LoadLibraryError",
    "MemvelopeError",
    "MissingSymbolError",
    "NoRoomError",
    "NvmlCallError",
    "PastMaximum",
    "Plan",
    "PlanRefused",
    "Profile",
    "ReadAllocatorError",
    "ReadConfigError",
    "ReadFileError",
    "ReadModelError",
    "Rejected",
    "Session",
    "SessionExistsError",
    "StartThreadError",
    "Tag",
    "Term",
    "UnknownModelError",
    "WriteFileError",
    "__version__",
    "doctor",
    "inject_path",
    "plan",
    "profile",
    "sim_path",
    "snapshot",
    "snapshot_text",
    "tag",
    "would_fit",
]


if not TYPE_CHECKING:  # for a checker, anything would be there

    def __getattr__(name):
        """`memvelope.torch`, when somebody asks for it: most programs do not."""
        if name == "torch":
            from importlib import import_module

            return import_module(".torch", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def inject_path() -> str:
    """Path of the injection library, for `CUDA_INJECTION64_PATH`.

    Raises `FileNotFoundError` where the package was built without it.
    """
    from ._libs_path import lib

    return lib("libmemvelope_inject.so")


def sim_path() -> str:
    """Path of the simulated driver. It serves under the names libcuda.so.1, libcupti.so.13 and
    libnvidia-ml.so.1, which `memvelope demo --device sim` links to it.

    Raises `FileNotFoundError` where the package was built without it.
    """
    from ._libs_path import lib

    return lib("libmemvelope_sim.so")
