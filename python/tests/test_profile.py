"""`profile` and `Session` in this process, which has no GPU or is not asked to use it. Every form of
`profile` has to behave alike whether something is recorded or not; which work counts for which scope
is in test_scopes.py."""

import asyncio
import contextlib
import functools
import inspect
import json
import threading
import warnings

import memvelope
import pytest
from memvelope import Profile, Session, profile, snapshot
from memvelope.asgi import ProfileMiddleware

ID = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
HEADER = f"00-{ID}-{SPAN}-01"


@contextlib.contextmanager
def session_of(kind, monkeypatch):
    """No session, one that is off, or one that records and finds no driver."""
    if kind == "none":
        yield None
        return
    monkeypatch.setenv("MEMVELOPE_RECORD", "off" if kind == "off" else "auto")
    monkeypatch.setenv("MEMVELOPE_CUDA_PATH", "/nonexistent/libcuda.so.1")
    with Session.start() as session:
        yield session


@pytest.fixture(params=["none", "off", "blind"])
def session(request, monkeypatch):
    with session_of(request.param, monkeypatch) as session:
        yield session
    assert Session.current() is None, "a test left a session running"


@pytest.fixture
def blind(monkeypatch):
    with session_of("blind", monkeypatch) as session:
        yield session


@pytest.fixture
def spans(blind, tmp_path):
    """Names of the spans so far."""

    def read():
        blind.write_trace(tmp_path / "spans.json")
        events = json.loads((tmp_path / "spans.json").read_text())["traceEvents"]
        return [event["name"] for event in events if event.get("cat") == "span"]

    return read


def test_a_with_block(session):
    with profile("step") as profiled:
        assert isinstance(profiled, Profile) and profiled.name == "step"
    assert Session.current() is not None or session is None, "it starts none"


def test_blocks_nest_and_one_object_may_be_entered_again(spans):
    outer = profile("outer")
    with outer, profile("inner"), outer:
        pass
    with outer:
        pass
    assert spans() == ["outer", "inner", "outer", "outer"]


def test_exceptions_pass(session):
    error = ZeroDivisionError("x")

    @profile("raising")
    def raising():
        raise error

    async def later():
        raise error

    calls = [
        raising,
        lambda: asyncio.run(profile("later")(later)()),
        lambda: asyncio.run(profile("later").run(later())),
    ]
    for call in calls:
        with pytest.raises(ZeroDivisionError) as caught:
            call()
        assert caught.value is error and error.__context__ is None and error.__cause__ is None
    with pytest.raises(ZeroDivisionError), profile("step"):
        raise error


def test_decorated_functions(session):
    @profile("add")
    def add(a, b=2):
        """Adds."""
        return a + b

    assert (add.__name__, add.__doc__) == ("add", "Adds.")
    assert str(inspect.signature(add)) == "(a, b=2)"
    assert add(1, b=4) == 5


def test_bare_decorators_and_recursion(spans):
    @profile
    def twice(n):
        return twice(n - 1) + 2 if n else 0

    assert twice(3) == 6
    assert len(spans()) == 4 and all(name.endswith("twice") for name in spans())


def test_coroutine_functions(session):
    @profile("fetch")
    async def fetch(n):
        """Fetches."""
        await asyncio.sleep(0)
        return n

    async def main():
        return await asyncio.gather(*(fetch(n) for n in range(5)))

    assert inspect.iscoroutinefunction(fetch) and fetch.__doc__ == "Fetches."
    assert asyncio.run(main()) == list(range(5))


def test_coroutine_functions_in_disguise(session):
    class Model:
        async def step(self):
            return 5

        async def __call__(self):
            return 5

    model = Model()
    for function in (model.step, model, functools.partial(model.step)):
        wrapped = profile("step")(function)
        assert inspect.iscoroutinefunction(wrapped) and asyncio.run(wrapped()) == 5


def test_cancellation_reaches_the_coroutine_and_comes_back(session):
    seen = []

    @profile("wait")
    async def wait():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            seen.append(error.args)
            await asyncio.sleep(0)
            raise

    async def survive():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "stayed"

    async def main():
        task = asyncio.create_task(wait())
        other = asyncio.create_task(profile("survive").run(survive()))
        await asyncio.sleep(0)
        task.cancel("why")
        other.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled() and await other == "stayed"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wait(), 0.01)

    asyncio.run(main())
    assert seen[0] == ("why",) and len(seen) == 2


def test_run_takes_any_awaitable(session):
    class ByHand:
        def __await__(self):
            return iter(())

    async def main():
        future = asyncio.get_running_loop().create_future()
        future.set_result(7)
        assert await profile("future").run(future) == 7
        assert await profile("by hand").run(ByHand()) is None
        assert await profile("task").run(asyncio.create_task(asyncio.sleep(0, 8))) == 8
        with pytest.raises((TypeError, AttributeError)):
            await profile("nothing").run(5)

    asyncio.run(main())


def test_a_coroutine_that_is_closed_is_closed_inside(session):
    ended = []

    @profile("wait")
    async def wait():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def main():
        coroutine = wait()
        coroutine.send(None)
        coroutine.close()

    asyncio.run(main())
    assert ended == [True]
    never = wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del never


def test_generators(session):
    @profile("numbers")
    def numbers(n):
        """Counts."""
        try:
            got = yield n
            while got is not None:
                try:
                    got = yield got + 1
                except KeyError as error:
                    got = error.args[0]
            return "returned"
        finally:
            ended.append(n)

    ended = []
    assert inspect.isgeneratorfunction(numbers) and numbers.__doc__ == "Counts."
    running = numbers(1)
    assert [next(running), running.send(5), running.throw(KeyError(9))] == [1, 6, 10]
    with pytest.raises(StopIteration) as stop:
        running.send(None)
    assert stop.value.value == "returned"
    running = numbers(2)
    next(running)
    running.close()
    assert ended == [1, 2] and list(numbers(3)) == [3]


def test_async_generators(session):
    ended = []

    @profile("numbers")
    async def numbers(n):
        try:
            got = n
            while got is not None:
                await asyncio.sleep(0)
                try:
                    got = yield got + 1
                except KeyError as error:
                    got = error.args[0]
        finally:
            await asyncio.sleep(0)
            ended.append(n)

    async def main():
        assert inspect.isasyncgenfunction(numbers)
        running = numbers(1)
        assert [await anext(running), await running.asend(5)] == [2, 6]
        error = KeyError(9)
        assert await running.athrow(error) == 10 and error.__context__ is None
        with pytest.raises(StopAsyncIteration):
            await running.asend(None)
        async for number in numbers(2):
            assert number == 3
            break
        async with contextlib.aclosing(numbers(3)) as closing:
            assert await anext(closing) == 4
        assert [number async for number in numbers(4)] == [5]
        with pytest.raises(ValueError, match="thrown"):
            running = numbers(5)
            await anext(running)
            await running.athrow(ValueError("thrown"))

    asyncio.run(main())
    assert sorted(ended) == [1, 2, 3, 4, 5]


def test_tasks_may_keep_blocks_open(spans):
    shared = profile("shared")

    async def work(n):
        async with shared, profile(f"own {n}"):
            await asyncio.sleep(0.001 * (3 - n))

    async def main():
        await asyncio.gather(*(work(n) for n in range(3)))

    asyncio.run(main())
    assert sorted(spans()) == ["own 0", "own 1", "own 2"] + ["shared"] * 3


def test_threads_share_an_object(spans):
    shared, barrier = profile("thread"), threading.Barrier(4)

    def work():
        barrier.wait()
        for _ in range(50):
            with shared:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert spans() == ["thread"] * 200


def test_a_block_may_end_in_another_thread(spans):
    profiled = profile("moving")
    profiled.__enter__()
    other = threading.Thread(target=profiled.__exit__)
    other.start()
    other.join()
    assert spans() == ["moving"]


def test_sessions_may_come_and_go_inside_a_block(monkeypatch):
    profiled = profile("over")
    with profiled:
        with session_of("blind", monkeypatch), profiled:
            pass
        with session_of("blind", monkeypatch):
            left_open = profile("left open")
            left_open.__enter__()
        left_open.__exit__()
    assert Session.current() is None


def test_what_cannot_be_profiled_is_told(session):
    for bad in (5, b"step", ["step"]):
        with pytest.raises(TypeError, match="a str"):
            profile(bad)
    for kind in (property, staticmethod, classmethod):
        with pytest.raises(TypeError, match=f"not {kind.__name__}"):
            profile("step")(kind(lambda self: 1))
    with pytest.raises(RuntimeError, match="not entered"):
        profile("step").__exit__(None, None, None)
    with pytest.raises(TypeError, match="needs a name"), profile():
        pass


@pytest.mark.parametrize(
    "trace_id", [ID, ID.upper(), bytes.fromhex(ID), int(ID, 16)], ids=["hex", "HEX", "bytes", "int"]
)
def test_trace_ids(trace_id):
    assert profile("step", trace_id).trace_id == ID
    assert profile("step", trace_id=trace_id).trace_id == ID


@pytest.mark.parametrize(
    "bad",
    [
        *("", "0" * 32, ID[:-1], ID + "0", "+" + ID[1:], " " + ID[1:], "x" * 32, HEADER),
        *(b"", bytes(16), bytes(15), b"x" * 17, 0, -1, 1 << 128),
    ],
)
def test_bad_trace_ids_are_refused(bad):
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        profile("step", bad)


def test_what_is_no_trace_id_at_all():
    for bad in (True, 1.5, [ID]):
        with pytest.raises(TypeError, match="trace_id: expected"):
            profile("step", bad)
    with pytest.raises(TypeError, match="traceparent: expected"):
        profile("step", traceparent=5)
    with pytest.raises(ValueError, match="one of them"):
        profile("step", ID, traceparent=HEADER)


GOOD = [HEADER, f" {HEADER} ", f"00-{ID}-{SPAN}-00", f"cc-{ID}-{SPAN}-01-what-comes", HEADER.encode()]
BAD = [
    *("", "00", ID, f"{HEADER}-more", f"ff-{ID}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01"),
    *(f"00-{ID}-{'0' * 16}-01", HEADER.upper(), f"00-{ID}-{SPAN}-1", f"{HEADER},{HEADER}"),
    *(b"\xff\xfe", "\ud800", "0" * 100_000),
]


@pytest.mark.parametrize("header", GOOD)
def test_traceparents(header):
    assert profile("step", traceparent=header).trace_id == ID


def test_bad_traceparents_are_counted_and_not_refused(blind, spans):
    def unread():
        found = [why for why in snapshot()["unseen"] if "traceparents" in why]
        return int(found[0].split()[0]) if found else 0

    before = unread()
    for header in BAD:
        profiled = profile("step", traceparent=header)
        with profiled, profiled:
            assert profiled.trace_id is None
    assert unread() == before + len(BAD), "once an object"
    assert spans() == ["step"] * (2 * len(BAD))


def asgi_call(app, **scope):
    async def main():
        sent = []

        async def send(message):
            await asyncio.sleep(0)
            sent.append(message)

        await app(scope, None, send)
        return sent

    return asyncio.run(main())


async def application(scope, receive, send):
    await send(scope["type"])
    if scope.get("path") == "/broken":
        raise ZeroDivisionError


def test_the_middleware_names_requests_by_method(spans):
    app = ProfileMiddleware(application)
    headers = [(b"host", b"x"), (b"traceparent", HEADER.encode())]
    assert asgi_call(app, type="http", method="GET", path="/a/b", headers=headers) == ["http"]
    asgi_call(app, type="http", method="GET", headers=[(b"traceparent", b"nonsense")] * 2)
    for odd in ("BREW", "x" * 1000):
        asgi_call(app, type="http", method=odd)
    for kind in ("lifespan", "websocket"):
        assert asgi_call(app, type=kind) == [kind]
    with pytest.raises(ZeroDivisionError):
        asgi_call(app, type="http", method="POST", path="/broken", headers=[])
    asgi_call(ProfileMiddleware(application, name="chat"), type="http", method="GET")
    asgi_call(ProfileMiddleware(application, lambda scope: scope["route"]), type="http", route="r")
    by_method = ["http GET"] * 2 + ["http other"] * 2 + ["http POST"]
    assert spans() == [*by_method, "chat", "r"]


def test_the_middleware_without_a_session():
    assert asgi_call(ProfileMiddleware(application), type="http", method="GET") == ["http"]


def test_sessions_report_and_end(monkeypatch, tmp_path):
    with session_of("off", monkeypatch) as session:
        with pytest.raises(memvelope.SessionExistsError):
            Session.start()
        assert snapshot()["simulated"] is False
        report = session.report()
        json.dumps(report)  # plain objects only
        assert report["snapshot"]["unseen"], "a recording that is off says so"
        assert session.self_cost()["host_bytes"] >= 0
        assert session.resume() is False
    assert snapshot() is None
    assert session.snapshot()["unseen"], "a handle keeps the last snapshot"
    written = session.write_trace(tmp_path / "trace.json")
    assert written["bytes"] == (tmp_path / "trace.json").stat().st_size
    with pytest.raises(memvelope.WriteFileError) as caught:
        session.write_trace(tmp_path / "no" / "trace.json")
    assert caught.value.path.endswith("trace.json")
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]


def test_a_session_ends_with_its_block_whatever_happens(monkeypatch):
    with pytest.raises(ZeroDivisionError), session_of("blind", monkeypatch):
        raise ZeroDivisionError
    assert Session.current() is None


def test_a_typo_in_the_environment_is_warned_of(monkeypatch):
    # In two parts, because every key that stands in the sources must be in the table.
    typo = "MEMVELOPE_" + "BUFER_BYTES"
    monkeypatch.setenv(typo, "1")
    monkeypatch.setenv("MEMVELOPE_RECORD", "off")
    with pytest.warns(RuntimeWarning, match=typo):
        Session.start().stop()


@pytest.mark.parametrize("timeout_s", [-1.0, float("nan"), float("inf")])
def test_bad_timeouts_are_refused(blind, timeout_s):
    with pytest.raises(ValueError, match="timeout_s"):
        blind.flush(timeout_s)
