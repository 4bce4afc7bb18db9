"""Coroutines and generators made step by step: something is entered before each step and left after
it, so that it holds for exactly what they do themselves, whatever else the thread does in between."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from contextlib import AbstractContextManager
    from typing import Any, Protocol, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])
    T = TypeVar("T")

    class Stepped(Protocol):
        """What is entered and left. What a step entered in it and did not leave comes back with the
        next."""

        def enter(self) -> None: ...
        def leave(self) -> None: ...
        def end(self) -> None: ...

    class Mark(AbstractContextManager[Any], Protocol):
        """What makes them; for plain functions it is a block itself."""

        def _open(self) -> Stepped | None: ...


def step_by_step(scope: Stepped, awaitable: Awaitable[T]) -> Awaitable[T]:
    """Awaits `awaitable` with `scope` entered for each of its steps, and ended after the last."""
    if not hasattr(awaitable, "send"):
        awaitable = awaitable.__await__()  # type: ignore[assignment]
    return Steps(scope, awaitable, True)


def check(function: Any, caller: str) -> None:
    """Raises `TypeError` for what cannot be wrapped."""
    # A static method may be called since Python 3.10; what wrapped it would be a method again.
    if not callable(function) or isinstance(function, staticmethod):
        raise TypeError(
            f"{caller}() wraps functions, not {type(function).__name__}\n"
            "hint: below @property, @staticmethod and the like, put it next to the function"
        )


def wrap(mark: Mark, function: F) -> F:
    """A function that does what `function` does inside of what `mark` opens, anew in each call. What
    waits or yields is made step by step."""
    from functools import wraps

    kind = kind_of(function)
    if kind == "coroutine":

        @wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            scope = mark._open()
            if scope is None:
                return await function(*args, **kwargs)
            return await Steps(scope, function(*args, **kwargs), True)

    elif kind == "async generator":

        @wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            scope = mark._open()
            try:
                inner = function(*args, **kwargs)
                step = inner.__anext__()
                while True:
                    try:
                        item = await (Steps(scope, step, False) if scope else step)
                    except StopAsyncIteration:
                        return
                    thrown = None
                    try:
                        sent = yield item
                    except GeneratorExit:
                        step = inner.aclose()
                        await (Steps(scope, step, False) if scope else step)
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
            scope = mark._open()
            inner = function(*args, **kwargs)
            if scope is None:
                return (yield from inner)
            return (yield from drive(scope, inner, True))

    else:

        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with mark:
                return function(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


class Steps:
    """An awaitable whose steps are those of `inner`, each made inside of `scope`."""

    __slots__ = ("_ends", "_inner", "_scope")

    def __init__(self, scope: Stepped, inner: Any, ends: bool) -> None:
        self._scope, self._inner, self._ends = scope, inner, ends

    def __await__(self) -> Generator[Any, Any, Any]:
        return drive(self._scope, self._inner, self._ends)


def drive(scope: Stepped, inner: Any, ends: bool) -> Generator[Any, Any, Any]:
    """What `yield from inner` does (PEP 380), with `scope` entered around each step. `ends`: the
    scope is over when `inner` is."""
    enter, leave = scope.enter, scope.leave
    send = getattr(inner, "send", None)
    value: Any = None
    thrown: BaseException | None = None
    error: BaseException | None
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


def kind_of(function: Any) -> str:
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
