"""What arguments and answers of `_native` are made of. Only type checkers read it."""

from os import PathLike
from typing import Any, Literal, SupportsIndex, TypedDict

_Document = str | PathLike[str] | dict[str, Any]
"""A path to a JSON file (or to the folder it lies in), its text, or the dict in it."""

_KvDtype = Literal[
    "auto",
    "float16",
    "bfloat16",
    "fp8",
    "fp8_e4m3",
    "fp8_e5m2",
    "fp8_ds_mla",
    "int8_per_token_head",
    "int4_per_token_head",
    "fp8_per_token_head",
    "nvfp4",
]

_Rule = Literal[
    "tensor_parallel",
    "backend",
    "dtype",
    "block_size",
    "pages",
    "memory",
    "unknown_weights",
    "parameter",
]

_Reason = Literal[
    "no_capacity",
    "too_long",
    "bad_token_count",
    "unknown_pool",
    "overcommitted",
    "predicted",
    "queued",
    "queue_full",
    "expired",
    "cancelled",
    "too_many_leases",
    "forked",
]

_Policy = Literal["guaranteed", "banker", "optimistic"]

_Prefix = tuple[int | bytes | str, SupportsIndex]
"""An id (ints modulo 2**64; bytes and str are hashed) and how many tokens the prefix has."""

class _PoolOptions(TypedDict, total=False):
    share: int
    """Relative to the sum of all shares."""
    floor_percent: int
    """So much of its share it never lends to other pools; 100 unless given."""

_Pool = SupportsIndex | _PoolOptions

class _Refusal(TypedDict):
    rule: _Rule
    reason: str

class _Sequences(TypedDict):
    tokens: int
    """Length of each."""
    blocks: int | None
    """Blocks that one may hold; `None` without an engine."""
    bytes: int
    """Bytes that one may hold."""
    count: int
    """How many fit, never more than the engine runs at once."""
    bound_by: Literal["kv_cache", "max_num_seqs"]

class _WorstCase(TypedDict):
    sequences: int
    tokens: int
    need_bytes: int
    tokens_each: int | None
    """The length up to which so many sequences fit at once."""

class _Weights(TypedDict):
    param_count: int
    """Elements as stored; packed types count their containers."""
    param_bytes: int
    bytes_by_dtype: dict[str, int]

class _Resolved(TypedDict):
    kv_cache_dtype: _KvDtype
    block_size: int
    tensor_parallel: int
    attn_backends: list[str]
    max_num_batched_tokens: int
    max_num_seqs: int
    max_in_flight_tokens: int
    is_state_aligned: bool
    native_max_model_len: int | None

class _Group(TypedDict):
    num_layers: int
    block_size: int
    """Tokens a block."""
    page_size_bytes: int
    specs: list[dict[str, Any]]
    """The caches of its layers, equal ones once, with their number."""
    blocks_per_request: int | None
    """Blocks that one sequence of the longest length may hold."""

class _Remedy(TypedDict):
    kind: Literal[
        "empty_cache",
        "expandable_segments",
        "synchronize",
        "trim_pools",
        "free_tag",
        "raise_limit",
        "other_processes",
    ]
    recovers_bytes: int
    is_enough: bool
    text: str

_Fits = TypedDict(
    "_Fits",
    {
        "fits": Literal["yes"],
        "from": Literal["cached", "free", "after_release", "pool"],
        "taken_bytes": int,
        "largest_fit_bytes": int,
    },
)

class _FitsNot(TypedDict):
    fits: Literal["no"]
    because: str
    needed_bytes: int
    largest_fit_bytes: int
    remedies: list[_Remedy]

class _FitsUnknown(TypedDict):
    fits: Literal["unknown"]
    missing: str

_Fit = _Fits | _FitsNot | _FitsUnknown
