"""The errors, as `_native` has them. Only type checkers read this file."""

from ._types import _Reason, _Rule

__all__ = [
    "ConfigureGateError",
    "CuptiCallError",
    "DriverCallError",
    "FlushTimeoutError",
    "InternalError",
    "LeaseReleased",
    "LoadLibraryError",
    "MemvelopeError",
    "MissingSymbolError",
    "NoRoomError",
    "NvmlCallError",
    "PastMaximum",
    "PlanRefused",
    "ReadAllocatorError",
    "ReadConfigError",
    "ReadFileError",
    "ReadModelError",
    "Rejected",
    "SessionExistsError",
    "StartThreadError",
    "UnknownModelError",
    "WriteFileError",
]

class MemvelopeError(Exception): ...

class LoadLibraryError(MemvelopeError):
    library: str
    tried: list[tuple[str, str]]
    hint: str

class MissingSymbolError(MemvelopeError):
    library: str
    symbol: str
    hint: str

class DriverCallError(MemvelopeError):
    call: str
    code: int
    name: str

class CuptiCallError(MemvelopeError):
    call: str
    code: int
    name: str
    hint: str

class NvmlCallError(MemvelopeError):
    call: str
    problem: str

class SessionExistsError(MemvelopeError): ...

class StartThreadError(MemvelopeError):
    thread: str

class FlushTimeoutError(MemvelopeError):
    waited_ms: int

class ReadConfigError(MemvelopeError):
    key: str
    value: str
    expected: str

class ReadAllocatorError(MemvelopeError):
    place: str
    problem: str

class ReadModelError(MemvelopeError):
    field: str
    problem: str

class UnknownModelError(MemvelopeError):
    field: str
    found: str
    similar: list[str]
    known: int

class NoRoomError(MemvelopeError):
    total_bytes: int
    taken_bytes: int
    hint: str

class ConfigureGateError(MemvelopeError):
    argument: str
    problem: str

class ReadFileError(MemvelopeError):
    path: str
    errno: int | None

class WriteFileError(MemvelopeError):
    path: str
    errno: int | None

class InternalError(MemvelopeError):
    """A bug in memvelope, caught at the edge."""

class PlanRefused(MemvelopeError):
    """An engine would not start with a plan."""

    rule: _Rule
    reason: str

class Rejected(MemvelopeError):
    """A request was not admitted."""

    reason: _Reason
    short_by_tokens: int
    retry_after_s: float | None
    """When to come back; `None`: never, as it stands."""
    retry_after_ns: int | None

class PastMaximum(MemvelopeError):
    """A lease is at its declared maximum."""

    max_tokens: int
    past_by_tokens: int

class LeaseReleased(MemvelopeError):
    """A lease was grown after its release."""
