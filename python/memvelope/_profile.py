"""`profile`: names stretches of host time, and the GPU work launched in them, for the session that
records. It starts none: that is `Session.start()`, `memvelope run`, or nobody, and then a profile does
nothing."""

from __future__ import annotations

# Typing, functools and the like are not imported here: they cost more than this whole package.
from ._native import Session, _Mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from typing import Any, TypeVar, overload

    from ._native import _Open

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

    async def __aexit__(self, *exception: object) -> None:
        self.__exit__(*exception)

    async def run(self, awaitable: Awaitable[T]) -> T:
        """Awaits `awaitable` in a scope that is entered for each of its steps: exactly what it
        launches counts, whatever else the thread does in between. Give it the coroutine: what a task
        does is not done in the steps of who waits for it."""
        scope = self._open()
        if scope is None:
            return await awaitable
        if not hasattr(awaitable, "send"):
            awaitable = awaitable.__await__()  # type: ignore[assignment]
        return await _Steps(scope, awaitable, True)

    def __call__(self, function: F) -> F:
        """Wraps a function, a coroutine function or a generator of either kind: each call is a scope
        of its own. Those that wait are entered for each of their steps, as by `run`."""
        from functools import wraps

        # A static method may be called since Python 3.10; what wrapped it would be a method again.
        if not callable(function) or isinstance(function, staticmethod):
            raise TypeError(
                f"profile() wraps functions, not {type(function).__name__}\n"
                "hint: below @property, @staticmethod and the like, put it next to the function"
            )
        if self.name is None:
            self._name_it(getattr(function, "__qualname__", type(function).__name__))
        kind = _kind(function)
        if kind == "coroutine":

            @wraps(function)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                scope = self._open()
                if scope is None:
                    return await function(*args, **kwargs)
                return await _Steps(scope, function(*args, **kwargs), True)

        elif kind == "async generator":

            @wraps(function)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                scope = self._open()
                try:
                    inner = function(*args, **kwargs)
                    step = inner.__anext__()
                    while True:
                        try:
                            item = await (_Steps(scope, step, False) if scope else step)
                        except StopAsyncIteration:
                            return
                        thrown = None
                        try:
                            sent = yield item
                        except GeneratorExit:
                            step = inner.aclose()
                            await (_Steps(scope, step, False) if scope else step)
                            raise
                        except BaseException as error:
                            thrown = error
                        step = inner.asend(sent) if thrown is None else inner.athrow(thrown)
                finally:
                    if scope is not None:
                        scope.end()

        elif kind == "generator":

            @wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                scope = self._open()
                inner = function(*args, **kwargs)
                if scope is None:
                    return (yield from inner)
                return (yield from _drive(scope, inner, True))

        else:

            @wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return function(*args, **kwargs)

        return wrapper  # type: ignore[return-value]


class _Steps:
    """An awaitable whose steps are those of `inner`, each made inside of `scope`."""

    __slots__ = ("_ends", "_inner", "_scope")

    def __init__(self, scope: _Open, inner: Any, ends: bool) -> None:
        self._scope, self._inner, self._ends = scope, inner, ends

    def __await__(self) -> Generator[Any, Any, Any]:
        return _drive(self._scope, self._inner, self._ends)


def _drive(scope: _Open, inner: Any, ends: bool) -> Generator[Any, Any, Any]:
    """What `yield from inner` does (PEP 380), with `scope` entered around each step. `ends`: the
    scope is over when `inner` is."""
    enter, leave = scope.enter, scope.leave
    send = getattr(inner, "send", None)
    value = thrown = None
    try:
        while True:
            enter()
            try:
                if thrown is not None:
                    error, thrown = thrown, None
                    throw = getattr(inner, "throw", None)
                    if throw is None:
                        raise error
                    out = throw(error)
                else:
                    # Awaitables of C or of hand need not have more than an iterator has.
                    out = next(inner) if send is None else send(value)
            except StopIteration as stop:
                return stop.value
            finally:
                error = None  # it knows this frame, which would know it
                leave()
            try:
                value = yield out
            except GeneratorExit:
                close = getattr(inner, "close", None)
                enter()
                try:
                    if close is not None:
                        close()
                finally:
                    leave()
                raise
            except BaseException as caught:
                thrown = caught
    finally:
        if ends:
            scope.end()


# Bits of `co_flags` as documented with `inspect`, which takes milliseconds to import.
_KINDS = {0x20: "generator", 0x80: "coroutine", 0x200: "async generator"}


def _kind(function: Any) -> str:
    """What a call of it makes, seen through partials and callable objects; else `function`."""
    while True:
        if hasattr(function, "__func__"):  # a bound method
            function = function.__func__
        elif hasattr(function, "func") and hasattr(function, "keywords"):  # functools.partial
            function = function.func
        elif not hasattr(function, "__code__") and hasattr(type(function).__call__, "__code__"):
            function = type(function).__call__
        else:
            break
    code = getattr(function, "__code__", None)
    flags = code.co_flags if code is not None else 0
    return next((kind for bit, kind in _KINDS.items() if flags & bit), "function")


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


def snapshot() -> dict[str, Any] | None:
    """One epoch of everything the running session recorded so far; `None` if none runs."""
    session = Session.current()
    return session.snapshot() if session is not None else None
