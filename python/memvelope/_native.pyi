from collections.abc import Callable, Coroutine, Iterable
from os import PathLike
from types import TracebackType
from typing import Any, Literal, SupportsIndex, final

from typing_extensions import Self

from ._errors import ConfigureGateError as ConfigureGateError
from ._errors import CuptiCallError as CuptiCallError
from ._errors import DriverCallError as DriverCallError
from ._errors import FlushTimeoutError as FlushTimeoutError
from ._errors import InternalError as InternalError
from ._errors import LeaseReleased as LeaseReleased
from ._errors import LoadLibraryError as LoadLibraryError
from ._errors import MemvelopeError as MemvelopeError
from ._errors import MissingSymbolError as MissingSymbolError
from ._errors import NoRoomError as NoRoomError
from ._errors import NvmlCallError as NvmlCallError
from ._errors import PastMaximum as PastMaximum
from ._errors import PlanRefused as PlanRefused
from ._errors import ReadAllocatorError as ReadAllocatorError
from ._errors import ReadConfigError as ReadConfigError
from ._errors import ReadFileError as ReadFileError
from ._errors import ReadModelError as ReadModelError
from ._errors import Rejected as Rejected
from ._errors import SessionExistsError as SessionExistsError
from ._errors import StartThreadError as StartThreadError
from ._errors import UnknownModelError as UnknownModelError
from ._errors import WriteFileError as WriteFileError
from ._session import Follow as Follow
from ._session import Session as Session
from ._torch import Framework as Framework
from ._torch import _BlockScope as _BlockScope
from ._torch import _torch_accept as _torch_accept
from ._torch import _torch_builder_ns as _torch_builder_ns
from ._torch import _torch_epoch as _torch_epoch
from ._torch import _torch_ingest as _torch_ingest
from ._torch import _torch_turnover as _torch_turnover
from ._types import (
    _Document,
    _Group,
    _KvDtype,
    _Policy,
    _Pool,
    _Prefix,
    _Refusal,
    _Resolved,
    _Sequences,
    _Weights,
    _WorstCase,
)

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
    "ReadAllocatorError",
    "ReadConfigError",
    "ReadFileError",
    "ReadModelError",
    "Rejected",
    "Session",
    "SessionExistsError",
    "StartThreadError",
    "Term",
    "UnknownModelError",
    "WriteFileError",
    "__version__",
    "_BlockScope",
    "_EmptyCall",
    "_Mark",
    "_Open",
    "_Ticket",
    "_replace_tag",
    "_tag_name",
    "_tag_number",
    "_thread_tag",
    "_torch_accept",
    "_torch_builder_ns",
    "_torch_epoch",
    "_torch_ingest",
    "_torch_turnover",
    "doctor",
    "plan",
]

__version__: str

def doctor() -> dict[str, Any]:
    """What memvelope can see from this process, and what to do about the rest.

    The same findings as `memvelope doctor --json`: `health` is `usable`, `degraded` or `unusable`,
    `problems` says why; `libraries` has every candidate tried, `keys` every `MEMVELOPE_*` key.
    Blocks while libraries load; other threads run meanwhile.
    """

def plan(
    config: _Document,
    *,
    gpu: str | SupportsIndex | None = None,
    kv_bytes: SupportsIndex | None = None,
    tp: SupportsIndex = 1,
    kv_dtype: _KvDtype = "auto",
    block_size: SupportsIndex | None = None,
    max_num_batched_tokens: SupportsIndex | None = None,
    max_model_len: SupportsIndex | None = None,
    max_num_seqs: SupportsIndex | None = None,
    gpu_memory_utilization: float | None = None,
    quant_config: _Document | None = None,
    engine: Literal["vllm", "generic"] = "vllm",
    capability: tuple[SupportsIndex, SupportsIndex] | None = None,
    prefix_caching: bool | None = None,
    async_scheduling: bool = True,
) -> Plan:
    """Plans the memory of a model on a device, as vLLM 0.32 computes it at startup.

    Nothing runs, and no GPU is needed. A plan with which the engine would not start is returned,
    too: `Plan.refused` says why, and `Plan.raise_if_refused()` raises it. Files are read without
    the interpreter lock.

    `config`: a Hugging Face `config.json`, as a path to it (or to its directory), its text, or the
    dict in it. Of a directory with a checkpoint, the sizes of the weights are read from its files,
    too. `quant_config`: the `hf_quant_config.json` of some quantised checkpoints, likewise;
    it is read from beside a `config.json` that is given by path.

    `gpu`: a name ("h100", "a100-40", "h100-3g.40gb"), the total memory of a CUDA GPU (bytes as an
    int, or "80GiB"), or "cpu". `capability`: its compute capability, (9, 0) unless the name or you
    say otherwise. `kv_bytes`: bytes of the KV cache on one rank, as `--kv-cache-memory-bytes` gives
    them; without it, what `gpu_memory_utilization` (above 0, at most 1; vLLM's default is 0.92,
    that of "generic" 1) leaves beside weights, activations and context. One of `gpu` and `kv_bytes`
    is needed; without `gpu`, the kernels are those of an H100, and "cpu" needs `kv_bytes`.

    `tp`: tensor-parallel ranks. `kv_dtype`, `block_size` (tokens), `max_num_batched_tokens`,
    `max_model_len` (tokens), `max_num_seqs`, `prefix_caching` and `async_scheduling` are vLLM's own
    options. `engine`: "generic" is the arithmetic alone, without any engine's rounding.

    Raises `ReadFileError`, `ReadModelError`, `UnknownModelError`, and `TypeError` or `ValueError`
    for an argument.
    """

@final
class Plan:
    """What an engine will do with a model on a device, and what fits, before anything runs.

    Of one tensor-parallel rank. What the engine would not have computed is `None`; where it would
    not start, `refused` says why.
    """

    @property
    def engine(self) -> str:
        """With its version."""
    @property
    def architecture(self) -> str: ...
    @property
    def model_dtype(self) -> str:
        """The dtype that the model is served in."""
    @property
    def device(self) -> str: ...
    @property
    def device_source(self) -> Literal["table", "declared"]: ...
    @property
    def tensor_parallel_size(self) -> int: ...
    @property
    def block_size(self) -> int | None:
        """Tokens a block."""
    @property
    def bytes_per_block(self) -> int | None:
        """Bytes of one block of the shared pool, over all layers."""
    @property
    def num_gpu_blocks(self) -> int | None:
        """Blocks of the pool, one of them the null block, which is never handed out."""
    @property
    def kv_cache_size_tokens(self) -> int | None:
        """What the engine logs as the size of its KV cache: concurrency times longest length."""
    @property
    def max_concurrency(self) -> float | None:
        """Sequences of the longest length that fit at once."""
    @property
    def need_bytes_one_request(self) -> int | None:
        """Bytes that one sequence of the longest length needs."""
    @property
    def max_model_len(self) -> int | None:
        """The longest length, in tokens."""
    @property
    def estimated_max_model_len(self) -> int | None:
        """The longest length that would fit, in tokens, where the one asked for does not."""
    @property
    def available_kv_bytes(self) -> int | None:
        """Bytes for the KV cache; may be negative."""
    @property
    def groups(self) -> list[_Group]:
        """Layers that share a block table."""
    @property
    def weights(self) -> _Weights | None:
        """Parameters on one rank, computed from the config; `None` where it does not say."""
    @property
    def weight_bytes(self) -> int | None:
        """Bytes of weights on one rank that the equation counts."""
    @property
    def per_token_bytes(self) -> int | None:
        """Bytes one more token takes in the layers that keep every token."""
    @property
    def costs(self) -> list[dict[str, Any]]:
        """What layers alike keep: `layers`, `kept` (of which tokens), `bytes`, `factors`."""
    @property
    def resolved(self) -> _Resolved | None:
        """What the engine decided; `None` without one."""
    @property
    def sequences(self) -> list[_Sequences]:
        """How many sequences fit at some lengths."""
    @property
    def worst_case(self) -> _WorstCase | None:
        """As many sequences as the engine runs at once, each as long as can be."""
    @property
    def equation(self) -> Envelope | None:
        """The capacity equation; `None` where `kv_bytes` was given."""
    @property
    def warnings(self) -> list[str]:
        """What somebody should know who relies on these numbers."""
    @property
    def refused(self) -> _Refusal | None:
        """Why the engine would not start; `None` where it would."""
    def raise_if_refused(self) -> None:
        """Raises `PlanRefused` where the engine would not start."""
    def explain(self) -> str:
        """The whole plan as text for people; `str(plan)` is the same."""
    def to_json(self) -> str:
        """Everything above as one JSON object, under the same names."""
    def __eq__(self, other: object, /) -> bool: ...

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
        config: _Document,
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
    def block_tokens(self) -> int:
        """Tokens a block holds; the fewest, where layers have blocks of several sizes."""
    def to_json(self) -> str: ...

@final
class Gate:
    """Says whether a sequence still fits, and hands out leases on blocks. Thread-safe."""

    def __new__(
        cls,
        envelope: Envelope,
        policy: _Policy = "banker",
        *,
        max_model_len: SupportsIndex | None = None,
        max_new_tokens_default: SupportsIndex | None = None,
        pools: dict[str, _Pool] | None = None,
        estimate: bool = True,
        margin: float | None = None,
        watermark: float = 0.0,
        queue_max: SupportsIndex | None = None,
        leases_max: SupportsIndex | None = None,
        silent_max_ns: SupportsIndex | None = None,
        books: bool = False,
    ) -> Self: ...
    @staticmethod
    def from_blocks(
        capacity_blocks: SupportsIndex,
        block_tokens: SupportsIndex = 16,
        policy: _Policy = "banker",
        *,
        max_model_len: SupportsIndex | None = None,
        max_new_tokens_default: SupportsIndex | None = None,
        pools: dict[str, _Pool] | None = None,
        estimate: bool = True,
        margin: float | None = None,
        watermark: float = 0.0,
        queue_max: SupportsIndex | None = None,
        leases_max: SupportsIndex | None = None,
        silent_max_ns: SupportsIndex | None = None,
        books: bool = False,
    ) -> Gate:
        """A gate on a declared number of blocks: needs no model and no driver."""
    @staticmethod
    def from_plan(
        plan: Plan,
        policy: _Policy = "banker",
        *,
        max_model_len: SupportsIndex | None = None,
        max_new_tokens_default: SupportsIndex | None = None,
        pools: dict[str, _Pool] | None = None,
        estimate: bool = True,
        margin: float | None = None,
        watermark: float = 0.0,
        queue_max: SupportsIndex | None = None,
        leases_max: SupportsIndex | None = None,
        silent_max_ns: SupportsIndex | None = None,
        books: bool = False,
    ) -> Gate:
        """A gate on the blocks of a plan, all but the null block; `max_model_len` is the plan's.

        Raises `PlanRefused`, and `ValueError` for a plan without an engine, which has no blocks.
        """
    def try_admit(
        self,
        prompt_tokens: SupportsIndex,
        max_new_tokens: SupportsIndex | None = None,
        pool: str | None = None,
        klass: str | None = None,
        *,
        prefix: _Prefix | None = None,
    ) -> Lease | None:
        """Admits a sequence, or returns `None`. `admit` says why."""
    def admit(
        self,
        prompt_tokens: SupportsIndex,
        max_new_tokens: SupportsIndex | None = None,
        pool: str | None = None,
        klass: str | None = None,
        *,
        prefix: _Prefix | None = None,
    ) -> Lease:
        """Admits a sequence, or raises `Rejected`."""
    def wait_admit(
        self,
        prompt_tokens: SupportsIndex,
        max_new_tokens: SupportsIndex | None = None,
        pool: str | None = None,
        klass: str | None = None,
        *,
        prefix: _Prefix | None = None,
        timeout: float | None = None,
        priority: SupportsIndex = 0,
    ) -> Coroutine[Any, Any, Lease]:
        """Waits in the queue on an asyncio loop, or raises `Rejected`; `timeout` in seconds."""
    def explain(
        self,
        prompt_tokens: SupportsIndex,
        max_new_tokens: SupportsIndex | None = None,
        pool: str | None = None,
        klass: str | None = None,
        *,
        prefix: _Prefix | None = None,
    ) -> dict[str, Any]:
        """What would be answered now, and what would have changed it; "text" is for people."""
    def _enqueue(
        self,
        prompt_tokens: SupportsIndex,
        max_new_tokens: SupportsIndex | None,
        pool: str | None,
        klass: str | None,
        prefix: _Prefix | None,
        priority: SupportsIndex,
    ) -> _Ticket: ...
    def grow_many(self, leases: Iterable[Lease], tokens: SupportsIndex = 1) -> bytes:
        """Marks a step and grows all: a byte each, 1 granted, 0 wait, 2 refused."""
    def outcomes(self) -> dict[str, list[tuple[int, int]]]:
        """Histograms of requests and leases, as pairs of the first value beyond and a count."""
    def victims(self) -> list[dict[str, Any]]:
        """Whom to preempt when the budget shrank, the cheapest first."""
    def set_capacity(self, blocks: SupportsIndex, epoch: SupportsIndex) -> bool:
        """Sets the capacity in blocks; a stale epoch changes nothing and returns `False`."""
    def step(self) -> None:
        """Marks a step of the engine."""
    def tick(self, now_ns: SupportsIndex) -> None:
        """Marks a step of the engine at a time: `retry_after` is made of it."""
    def usage(self) -> dict[str, Any]:
        """What is handed out, over all pools; `rejected` counts by reason."""
    def pool_usage(self, name: str) -> dict[str, Any]:
        """The same of one pool."""

@final
class _Ticket:
    """A place in the queue, for `wait_admit`."""

    def take(self, wake: Callable[[], None]) -> Lease | None: ...
    def expire(self) -> Lease: ...
    def close(self) -> None: ...

@final
class Lease:
    """The right to use blocks, released exactly once: by `release()`, at the end of its `with`
    block, or when it is collected."""

    def grow(self, tokens: SupportsIndex = 1) -> int | None:
        """The sequence grew by `tokens`. How many blocks are newly held; `None`: it must wait.

        Raises `PastMaximum`, `LeaseReleased`, or `Rejected` for what is no token count.
        """
    def prefill(self, tokens: SupportsIndex) -> None:
        """So many more tokens of the prompt are in the cache."""
    def release(self) -> bool:
        """Gives the blocks back. Returns whether this call did it; a second one changes nothing."""
    def preempt(self) -> int:
        """Gives the blocks back for others. How many tokens are to be computed again."""
    def explain(self, tokens: SupportsIndex = 1) -> dict[str, Any]:
        """What a growth would be answered now, and from which numbers."""
    @property
    def released(self) -> bool: ...
    @property
    def held_blocks(self) -> int: ...
    @property
    def claim_blocks(self) -> int: ...
    @property
    def need_blocks(self) -> int: ...
    @property
    def serial(self) -> int | None: ...
    @property
    def tokens(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> bool: ...

class _Mark:
    """What `Profile` is made of."""

    def __new__(
        cls,
        name: str | None = None,
        trace_id: str | bytes | int | None = None,
        *,
        traceparent: str | bytes | None = None,
    ) -> Self: ...
    @property
    def name(self) -> str | None: ...
    @property
    def trace_id(self) -> str | None:
        """As 32 hexadecimal digits; `None` without one, and where the header could not be read."""
    def _name_it(self, name: str) -> None: ...
    def _open(self) -> _Open | None:
        """A scope; `None` where nothing is recorded."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> bool: ...

@final
class _Open:
    """A scope, entered around each step of a coroutine or generator."""

    def enter(self) -> None: ...
    def leave(self) -> None: ...
    def end(self) -> None: ...

def _tag_number(name: str) -> int:
    """Raises `ValueError` for what is no tag, with those that are."""

def _tag_name(number: int) -> str | None: ...
def _replace_tag(number: int) -> int:
    """Puts a tag in force on this thread; returns the former."""

def _thread_tag() -> int: ...

@final
class _EmptyCall:
    """The floor of benches/python_gate.py."""

    def __new__(cls) -> Self: ...
    def call(self) -> None: ...
