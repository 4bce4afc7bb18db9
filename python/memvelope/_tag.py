"""`tag`: says what memory is for that is allocated meanwhile.

Driver allocations are seen in the driver, below Python: what counts there is the *thread's* tag, a
number in the extension module. Which blocks a piece of Python is in belongs to its *context*
(`contextvars`): tasks have each their own, with what was open where they were made. So the thread's
tag has to follow as contexts take turns on it:

* The decorator and `run` put it in force for each step of a coroutine or generator. Exact with every
  event loop.
* A block that waits inside a task of asyncio's own loops: while such blocks are open,
  `asyncio.Handle._run`, by which those loops make every step, is wrapped.

A block that is over is over for everybody, also for tasks that were made in it and go on.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock, get_ident
from contextvars import ContextVar

from ._native import _replace_tag, _tag_name, _tag_number, _thread_tag
from ._steps import check, step_by_step, wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])
    T = TypeVar("T")


class _Block:
    """A stretch of the program with a tag."""

    __slots__ = ("beneath", "in_loop", "is_followed", "is_open", "number", "outer", "owner", "thread")

    def __init__(self, owner: Tag, outer: _Block | None) -> None:
        self.owner, self.number = owner, owner._number
        self.outer = outer
        self.is_open = True
        self.in_loop = _is_loop_running()
        self.thread = get_ident()
        #: The thread's tag when no block is in force there.
        self.beneath = 0
        #: Whether that of the block around this one was in force on the thread.
        self.is_followed = False


#: The innermost block of the running context; blocks that are over may stand in it.
_INNERMOST: ContextVar[_Block | None] = ContextVar("memvelope_tag", default=None)


def _innermost(block: _Block | None) -> _Block | None:
    while block is not None and not block.is_open:
        block = block.outer
    return block


def current() -> str | None:
    """The name of the tag in force here: of this task or, outside of blocks, of this thread."""
    block = _innermost(_INNERMOST.get())
    return _tag_name(_thread_tag() if block is None else block.number)


class Tag:
    """What memory is for; made by `tag`. May be entered again, also while it is entered, by any
    number of threads and tasks."""

    __slots__ = ("_entered", "_number")

    def __init__(self, name: str) -> None:
        self._number = _tag_number(name)
        #: Blocks that are open, for those that end where their context cannot be seen.
        self._entered: list[_Block] = []

    @property
    def name(self) -> str:
        """As in snapshots: `kv_cache` also where it was called `kv`."""
        return _tag_name(self._number) or ""

    def __repr__(self) -> str:
        return f"<memvelope.Tag {self.name}>"

    def __enter__(self) -> Tag:
        outer = _innermost(_INNERMOST.get())
        block = _Block(self, outer)
        _INNERMOST.set(block)
        if block.in_loop:
            _follow_tasks()
        former = _replace_tag(block.number)
        # In a thread that was given a context to run in, the thread's tag is not the context's.
        if outer is not None and outer.number == former:
            block.is_followed, block.beneath = True, outer.beneath
        else:
            block.beneath = former
        if block.in_loop:
            _remember(former)
        else:
            _unfollowed.pop(block.thread, None)
        self._entered.append(block)
        return self

    def __exit__(self, *_exception: object) -> None:
        head = block = _innermost(_INNERMOST.get())
        while block is not None and block.owner is not self:
            block = _innermost(block.outer)
        if block is None or block not in self._entered:
            # It ends in another context than it began in, as an async generator may.
            if not self._entered:
                raise RuntimeError("leaving a tag that was not entered\nhint: use it in `with`")
            block = self._entered[-1]
        self._entered.remove(block)
        _close(block)
        rest = _innermost(_INNERMOST.get())
        _INNERMOST.set(rest)
        if head is block and rest is not None and block.is_followed:
            _replace_tag(rest.number)
        elif head is block or (head is None and block.thread == get_ident()):
            _replace_tag(block.beneath)

    async def __aenter__(self) -> Tag:
        return self.__enter__()

    async def __aexit__(self, *exception: object) -> None:
        self.__exit__(*exception)

    def _open(self) -> _Stepped:
        return _Stepped(self)

    async def run(self, awaitable: Awaitable[T]) -> T:
        """Awaits `awaitable` with the tag in force for each of its steps, with whatever event loop.
        Give it the coroutine: what a task does is not done in the steps of who waits for it."""
        return await step_by_step(self._open(), awaitable)

    def __call__(self, function: F) -> F:
        """Wraps a function, a coroutine function or a generator of either kind: the tag is in force
        while it runs, and not while it waits or after it yielded."""
        check(function, "tag")
        return wrap(self, function)


class _Stepped:
    """A block that is entered for each step of a coroutine or generator."""

    __slots__ = ("_block", "_former", "_inside", "_outside")

    def __init__(self, tag: Tag) -> None:
        self._block = _Block(tag, _innermost(_INNERMOST.get()))
        self._inside: _Block | None = self._block
        self._outside: _Block | None = None
        self._former = 0
        if self._block.in_loop:
            _follow_tasks()

    def enter(self) -> None:
        """A step begins, in the blocks that the last one left open."""
        self._outside = _INNERMOST.get()
        inside = _innermost(self._inside)
        _INNERMOST.set(inside)
        self._former = _replace_tag(0 if inside is None else inside.number)
        if self._block.in_loop:
            _remember(self._former)
        self._block.beneath = self._former

    def leave(self) -> None:
        self._inside = _INNERMOST.get()
        _INNERMOST.set(self._outside)
        _replace_tag(self._former)

    def end(self) -> None:
        if self._block.is_open:
            _close(self._block)


# ---------------------------------------------------------------- asyncio's own loops

_lock = allocate_lock()
#: Blocks that are open and were opened where a loop runs.
_open_in_loops = 0
#: What `Handle._run` was, while it is wrapped, and what wraps it.
_original: Any = None
_wrapper: Any = None
#: Threads that are in a step that is followed.
_followed: set[int] = set()
#: Threads in whose running step a block was opened before steps were followed, with what their
#: tag was before it: nobody takes the block's away when that step ends, so that the next one has to.
_unfollowed: dict[int, int] = {}


def _is_loop_running() -> bool:
    # Whoever runs a loop has imported it.
    asyncio = sys.modules.get("asyncio")
    running = getattr(asyncio, "_get_running_loop", None)
    return running is not None and running() is not None


def _remember(former: int) -> None:
    thread = get_ident()
    if thread not in _followed:
        # The first one in a step knows what was there before it.
        _unfollowed.setdefault(thread, former)


def _follow_tasks() -> None:
    """From now on the thread's tag is that of the context in each step of asyncio's own loops."""
    global _open_in_loops, _original, _wrapper
    from asyncio import Handle

    with _lock:
        _open_in_loops += 1
        if _original is not None:
            return
        original = Handle._run

        def _run(self: Any) -> None:
            thread = get_ident()
            beneath = _unfollowed.pop(thread, None)
            block = _innermost(self._context.get(_INNERMOST))
            former = _thread_tag() if block is None else _replace_tag(block.number)
            if beneath is not None:
                former = beneath
                if block is None:
                    _replace_tag(former)
            is_outermost = thread not in _followed
            _followed.add(thread)
            try:
                original(self)
            finally:
                if is_outermost:
                    _followed.discard(thread)
                _replace_tag(former)

        _original, _wrapper = original, _run
        Handle._run = _run  # type: ignore[method-assign]


def _close(block: _Block) -> None:
    global _open_in_loops, _original, _wrapper
    block.is_open = False
    if not block.in_loop:
        return
    from asyncio import Handle

    with _lock:
        _open_in_loops -= 1
        # Where somebody else wrapped it since, ours stays, and costs a look a step.
        if _open_in_loops == 0 and Handle._run is _wrapper:
            Handle._run = _original  # type: ignore[method-assign]
            _original = _wrapper = None


def tag(name: str) -> Tag:
    """What is allocated from the driver meanwhile is for this: `weights`, `kv_cache` (or `kv`),
    `activations`, `graphs`, or `withheld`, which is kept away from everybody on purpose.

        with memvelope.tag("weights"):
            model.load()

        @memvelope.tag("activations")
        async def step(): ...

        await memvelope.tag("kv").run(allocate())

    The innermost holds. A block belongs to its thread or asyncio task: what other tasks do while it
    waits is not tagged, except by tasks that were made in it, while it lasts. With another event
    loop than asyncio's own (uvloop), a block that waits is not taken off the thread meanwhile: use
    the decorator or `run` there, which are exact with all. A thread that a block starts or hands
    work to is outside of it: wrap the function that it runs.

    Costs next to nothing where nothing is recorded. Raises `ValueError` for another name.
    """
    return Tag(name)
