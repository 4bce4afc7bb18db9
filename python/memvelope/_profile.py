"""`profile`: a context manager and decorator over the process's one recording session.

Overlapping profiles, in one thread or several, share a recording: the first to be entered starts
it, the last to be left ends it, and the report covers all of it. Where a session runs already (the
injection library's, say) it is used and left running, and the report covers it from its own start.
"""

from __future__ import annotations

# Typing, functools and the like are not imported here: they cost more than this whole package.
from _thread import allocate_lock

from ._native import MemvelopeError, Session, SessionExistsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike
    from typing import Any, TypeVar, overload

    F = TypeVar("F", bound=Callable[..., Any])

#: How long the last profile to be left waits for records that are still under way.
STOP_TIMEOUT_S = 5.0

# Guards the three fields below it and nothing else: no session is started or stopped under it.
_lock = allocate_lock()
_recording: _Recording | None = None
_depth = 0


class _Recording:
    """One stretch from the first profile entered to the last one left."""

    def __init__(self, before: _Recording | None) -> None:
        self._before = before
        self._ours = False
        self.session: Session | None = None
        self.report: dict[str, Any] | None = None
        self.problems: list[str] = []
        # Two latches, held until the recording has started and until it is finished. Whoever joins
        # waits on the first, so that a profile is recorded from its beginning; whoever starts the
        # next recording waits on the second, lest it take a session that is about to end for
        # somebody else's.
        self._started, self._finished = allocate_lock(), allocate_lock()
        self._started.acquire()
        self._finished.acquire()

    def start(self) -> None:
        before, self._before = self._before, None
        if before is not None:
            pass_latch(before._finished)
        try:
            self.session = Session.current()
            if self.session is None:
                self.session = Session.start()
                self._ours = True
        except SessionExistsError:
            # Somebody else was faster between the two calls.
            self.session = Session.current()
        except (MemvelopeError, Warning) as error:
            # Warning: an unusable MEMVELOPE_* key where warnings are errors. The profiled code is
            # worth more than its profile, so it runs unrecorded.
            self.problems.append(f"recording could not be started: {error}")
        finally:
            self._started.release()

    def join(self) -> None:
        pass_latch(self._started)

    def finish(self) -> None:
        try:
            if self.session is not None:
                self._close(self.session)
        finally:
            self._finished.release()

    def _close(self, session: Session) -> None:
        try:
            if self._ours:
                session.stop(STOP_TIMEOUT_S)
            else:
                session.flush(STOP_TIMEOUT_S)
        except MemvelopeError as error:
            self.problems.append(str(error))
        try:
            # After stop() every handle sees the session's last snapshot.
            report = session.snapshot()
            report["mode"] = session.mode()
            report["self"] = session.self_cost()
            self.report = report
        except MemvelopeError as error:
            self.problems.append(f"the report could not be made: {error}")


def pass_latch(latch: Any) -> None:
    """Waits until a latch is open. Bounded, because a profile that a signal handler enters while
    this very thread starts or ends a recording would wait for itself."""
    if latch.acquire(timeout=2 * STOP_TIMEOUT_S):
        latch.release()


class Profile:
    """Records the GPU work of a `with` block or of the calls of a function.

    Made by `profile`. May be entered again, also while it is entered.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self._recording: _Recording | None = None
        self._spans: list[Any] = []

    def __enter__(self) -> Profile:
        global _depth, _recording
        with _lock:
            first = _depth == 0
            if first:
                _recording = _Recording(_recording)
            _depth += 1
            recording = _recording
        assert recording is not None
        self._recording = recording
        try:
            recording.start() if first else recording.join()
            span = self._span(recording)
        except BaseException:
            self._leave(recording)
            raise
        self._spans.append((recording, span))
        return self

    def _span(self, recording: _Recording) -> Any | None:
        session = recording.session
        if session is None or self.name is None:
            return None
        try:
            return session.span(self.name)
        except MemvelopeError as error:
            recording.problems.append(f"the span {self.name!r} was not recorded: {error}")
            return None

    def __exit__(self, *_exception: object) -> None:
        if not self._spans:
            raise RuntimeError("leaving a profile that was not entered\nhint: use it in `with`")
        recording, span = self._spans.pop()
        try:
            if span is not None:
                span.end()
        finally:
            self._leave(recording)

    @staticmethod
    def _leave(recording: _Recording) -> None:
        global _depth
        with _lock:
            _depth -= 1
            last = _depth == 0
        if last:
            recording.finish()

    @property
    def report(self) -> dict[str, Any] | None:
        """The snapshot at the end of the recording, with `mode` and `self` (what recording cost).

        `None` until the outermost profile is left, and where recording could not be started.
        """
        return self._recording.report if self._recording is not None else None

    @property
    def unseen(self) -> list[str]:
        """What was not recorded and why, one sentence each."""
        recording = self._recording
        if recording is None:
            return ["nothing was recorded yet: the profile was not entered"]
        seen_by_session = recording.report["unseen"] if recording.report is not None else []
        return [*recording.problems, *seen_by_session]

    def write_trace(
        self, path: str | PathLike[str], bytes_max: int = 64 << 20
    ) -> dict[str, int]:
        """Writes the sampled trace as Chrome trace JSON (opens in Perfetto).

        Raises `WriteFileError`, or `MemvelopeError` where nothing was recorded.
        """
        session = self._recording.session if self._recording is not None else None
        if session is None:
            why = "; ".join(self.unseen)
            raise MemvelopeError(f"writing {path} failed: there is no recording ({why})")
        return session.write_trace(path, bytes_max)

    def __call__(self, function: F) -> F:
        """Wraps a function or coroutine function: each call is a profile of its own.

        The wrapper's `profile` attribute is the profile of the latest call.
        """
        from functools import wraps

        if not callable(function):
            raise TypeError(
                f"profile() wraps functions, not {type(function).__name__}\n"
                "hint: below @property, @staticmethod and the like, put it next to the function"
            )
        name = self.name or getattr(function, "__qualname__", type(function).__name__)
        kind = _kind(function)
        if kind == "generator":
            raise TypeError(
                f"profile() wraps functions and coroutine functions, and {name} is a generator\n"
                "hint: use `with memvelope.profile():` inside it"
            )
        if kind == "coroutine":

            @wraps(function)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                wrapper.profile = profiled = Profile(name)  # type: ignore[attr-defined]
                with profiled:
                    return await function(*args, **kwargs)

        else:

            @wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                wrapper.profile = profiled = Profile(name)  # type: ignore[attr-defined]
                with profiled:
                    return function(*args, **kwargs)

        wrapper.profile = Profile(name)  # type: ignore[attr-defined]
        return wrapper  # type: ignore[return-value]


# Bits of `co_flags` as documented with `inspect`, which takes milliseconds to import.
_CO_GENERATOR, _CO_COROUTINE, _CO_ASYNC_GENERATOR = 0x20, 0x80, 0x200


def _kind(function: Any) -> str:
    """`coroutine`, `generator` or `function`, seen through partials and callable objects."""
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
    if flags & (_CO_GENERATOR | _CO_ASYNC_GENERATOR):
        return "generator"
    return "coroutine" if flags & _CO_COROUTINE else "function"


if TYPE_CHECKING:

    @overload
    def profile(name: str | None = None) -> Profile: ...
    @overload
    def profile(name: F) -> F: ...


def profile(name=None):  # type: ignore[no-untyped-def]
    """Records the GPU work of a `with` block or of a function's calls.

        with memvelope.profile("prefill") as recorded:
            ...
        recorded.report["timeline"]["kernels"]

        @memvelope.profile("step")
        async def step(): ...

    Starts the process's session if none runs; leaving the outermost profile waits for the last
    records (other threads run meanwhile) and makes `.report`. Without a driver the code runs all
    the same, and `.unseen` says what was not recorded and why.
    """
    if callable(name):
        return Profile()(name)
    if name is not None and not isinstance(name, str):
        found = type(name).__name__
        raise TypeError(f"profile(): expected a name (a str) or a function, not {found}")
    return Profile(name)


def snapshot() -> dict[str, Any] | None:
    """One epoch of everything the running session recorded so far; `None` if none runs."""
    session = Session.current()
    return session.snapshot() if session is not None else None
