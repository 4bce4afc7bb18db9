"""`profile`: names stretches of host time, and the GPU work launched in them, for the session that
records. It starts none: that is `Session.start()`, `memvelope run`, or nobody, and then a profile does
nothing."""

from __future__ import annotations

# Typing, functools and the like are not imported here: they cost more than this whole package.
from ._native import _Mark
from ._steps import check, step_by_step, wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, TypeVar, overload

    F = TypeVar("F", bound=Callable[..., Any])
    T = TypeVar("T")


class Profile(_Mark):
    """A scope: a name for what is done, and the trace that it is done for. Made by `profile`.

    May be entered again, also while it is entered, by any number of threads and tasks.
    """

    __slots__ = ()

    async def __aenter__(self) -> Profile:
        self.__enter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        self.__exit__(*exception)

    async def run(self, awaitable: Awaitable[T]) -> T:
        """Awaits `awaitable` in a scope that is entered for each of its steps: exactly what it
        launches counts, whatever else the thread does in between. Give it the coroutine: what a task
        does is not done in the steps of who waits for it."""
        scope = self._open()
        if scope is None:
            return await awaitable
        return await step_by_step(scope, awaitable)

    def __call__(self, function: F) -> F:
        """Wraps a function, a coroutine function or a generator of either kind: each call is a scope
        of its own. Those that wait are entered for each of their steps, as by `run`."""
        check(function, "profile")
        if self.name is None:
            self._name_it(getattr(function, "__qualname__", type(function).__name__))
        return wrap(self, function)


if TYPE_CHECKING:

    @overload
    def profile(
        name: str | None = None,
        trace_id: str | bytes | int | None = None,
        *,
        traceparent: str | bytes | None = None,
    ) -> Profile: ...
    @overload
    def profile(name: F) -> F: ...


def profile(name=None, trace_id=None, *, traceparent=None):  # type: ignore[no-untyped-def]
    """A scope of this name: the kernels and copies launched in it count for it, and its host time is
    a span of the trace.

        with memvelope.profile("prefill", trace_id=request.trace_id):
            ...

        @memvelope.profile("step")
        async def step(): ...

        await memvelope.profile("decode", traceparent=header).run(decode())

    The decorator and `run` are exact for coroutines and generators: the scope is entered for each of
    their steps, and so are the blocks in them. A `with` or `async with` block that awaits anywhere else
    shares its thread with other tasks: until one of them enters or leaves a profile, what they launch
    counts for the block, and from then on what the block launches does not, until it does so itself.

    `trace_id` is 32 hexadecimal digits, 16 bytes or an int; what is none raises `ValueError`.
    `traceparent` is the W3C header of a client's request; what is none is counted (`unseen` of the
    snapshot says so) and the scope has no trace id: a server does not fail for what it was sent.

    Names are bounded in number (`MEMVELOPE_NAMES_MAX`): name what is done, not for whom. Records where
    a session runs, and costs next to nothing where none does. `Session.start()` starts one; under
    `memvelope run` the program need not.
    """
    if trace_id is None and traceparent is None:
        # The plain form has a path of its own: passing keywords on costs a third of the whole.
        return Profile()(name) if callable(name) else Profile(name)
    return Profile(name, trace_id, traceparent=traceparent)
