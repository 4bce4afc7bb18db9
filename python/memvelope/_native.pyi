from os import PathLike
from types import TracebackType
from typing import Any, Literal, SupportsIndex, final

from typing_extensions import Self

__version__: str

_Reason = Literal[
    "no_capacity", "too_long", "bad_token_count", "no_maximum", "unknown_pool", "overcommitted"
]

def doctor() -> dict[str, Any]:
    """What memvelope can see from this process, and what to do about the rest.

    The same findings as `memvelope doctor --json`: `health` is `usable`, `degraded` or `unusable`,
    `problems` says why; `libraries` has every candidate tried, `keys` every `MEMVELOPE_*` key.
    Blocks while libraries load; other threads run meanwhile.
    """

@final
class Term:
    """One line of the capacity equation."""

    @property
    def name(self) -> str: ...
    @property
    def bytes(self) -> int | None:
        """Signed; `None` is absent, which is not zero."""
    @property
    def origin(self) -> Literal["measured", "derived", "assumed"]: ...
    @property
    def note(self) -> str: ...

@final
class Envelope:
    """The capacity equation of one device, term by term."""

    @staticmethod
    def plan(
        config: str | PathLike[str] | dict[str, Any],
        total_bytes: SupportsIndex,
        *,
        block_tokens: SupportsIndex = 16,
        activations_bytes: SupportsIndex | None = None,
        context_bytes: SupportsIndex | None = None,
        runtime_reserve_bytes: SupportsIndex | None = None,
        safety_reserve_bytes: SupportsIndex | None = None,
    ) -> Envelope:
        """Plans the memory of a device of `total_bytes` for a model, before anything runs.

        `config` is a Hugging Face `config.json`: a path to it (or to its directory), its text, or
        the dict in it.

        Raises `ReadFileError`, `ReadModelError`, `UnknownModelError` or `NoRoomError`.
        """
    @property
    def terms(self) -> list[Term]: ...
    @property
    def kv_capacity_bytes(self) -> int: ...
    @property
    def kv_capacity_blocks(self) -> int: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def block_tokens(self) -> int: ...
    def to_json(self) -> str: ...

@final
class Gate:
    """Says whether a sequence still fits, and hands out leases on blocks. Thread-safe."""

    def __new__(
        cls,
        envelope: Envelope,
        *,
        max_new_tokens_default: SupportsIndex | None = None,
        max_tokens: SupportsIndex | None = None,
        pools: dict[str, int] | None = None,
    ) -> Self: ...
    @staticmethod
    def from_blocks(
        capacity_blocks: SupportsIndex,
        block_tokens: SupportsIndex = 16,
        max_new_tokens_default: SupportsIndex | None = None,
        max_tokens: SupportsIndex | None = None,
        pools: dict[str, int] | None = None,
    ) -> Gate:
        """A gate on a declared number of blocks: needs no model and no driver."""
    def try_admit(
        self,
        prompt_tokens: SupportsIndex,
        max_new_tokens: SupportsIndex | None = None,
        pool: str | None = None,
    ) -> Lease | None:
        """Admits a sequence, or returns `None`. `admit` says why."""
    def admit(
        self,
        prompt_tokens: SupportsIndex,
        max_new_tokens: SupportsIndex | None = None,
        pool: str | None = None,
    ) -> Lease:
        """Admits a sequence, or raises `Rejected`."""
    def set_capacity(self, blocks: SupportsIndex, epoch: SupportsIndex) -> bool:
        """Sets the capacity in blocks; a stale epoch changes nothing and returns `False`."""
    def tick(self, now_ns: SupportsIndex) -> None:
        """Tells the gate the time, once per step or so: `retry_after` is made of it."""
    def usage(self) -> dict[str, Any]:
        """What is handed out, over all pools; `rejected` counts by reason."""

@final
class Lease:
    """The right to use blocks, released exactly once: by `release()`, at the end of its `with`
    block, or when it is collected."""

    def grow(self, tokens: SupportsIndex = 1) -> int:
        """The sequence grew by `tokens`. Returns how many blocks are newly held.

        Raises `PastMaximum`, `LeaseReleased`, or `Rejected` for what is no token count; nothing
        has changed then.
        """
    def release(self) -> bool:
        """Gives the blocks back. Returns whether this call did it; a second one changes nothing."""
    @property
    def released(self) -> bool: ...
    @property
    def held_blocks(self) -> int: ...
    @property
    def claim_blocks(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> bool: ...

@final
class Session:
    """A handle to the process's recording session; there is one a process."""

    @staticmethod
    def start() -> Session:
        """Starts the session. Raises `SessionExistsError` or `StartThreadError`."""
    @staticmethod
    def current() -> Session | None: ...
    def mode(self) -> dict[str, Any] | str:
        """How it records, or why it sees nothing."""
    def load_reports(self) -> list[dict[str, Any]]: ...
    def snapshot(self) -> dict[str, Any]: ...
    def self_cost(self) -> dict[str, Any]: ...
    def sample(self) -> None: ...
    def flush(self, timeout_s: float = 5.0) -> None:
        """Waits for the records of completed work. Raises `FlushTimeoutError`."""
    def span(self, name: str) -> Span: ...
    def write_trace(
        self, path: str | PathLike[str], bytes_max: int = 67_108_864
    ) -> dict[str, int]:
        """Writes the sampled trace as Chrome trace JSON. Raises `WriteFileError`."""
    def stop(self, timeout_s: float = 5.0) -> dict[str, Any]:
        """Ends the session; returns the last snapshot. Raises `FlushTimeoutError`."""

@final
class Span:
    """A named stretch of host time."""

    def end(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> bool: ...

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

@final
class _EmptyCall:
    """The floor of benches/python_gate.py."""

    def __new__(cls) -> Self: ...
    def call(self) -> None: ...
