"""`tag`: which one is in force where, as blocks nest, threads run and tasks take turns. That driver
allocations carry it, on the simulated driver, is at the end."""

import asyncio
import contextlib
import functools
import gc
import inspect
import json
import threading

import memvelope
import pytest
from memvelope import _tag, tag
from memvelope._native import _tag_name, _thread_tag
from test_sim import CUDA


def here():
    """The tag in force: as the driver's callbacks see it, which is what Python sees."""
    seen = _tag_name(_thread_tag())
    assert seen == _tag.current()
    return seen


@pytest.fixture(autouse=True)
def clean():
    run = asyncio.Handle._run
    assert here() is None
    yield
    gc.collect()
    assert here() is None
    assert asyncio.Handle._run is run, "asyncio is as it was"


def test_names():
    for name in ("weights", "kv_cache", "activations", "graphs", "withheld"):
        assert tag(name).name == name
        with tag(name) as entered:
            assert here() == name and isinstance(entered, memvelope.Tag)
    assert tag("kv").name == "kv_cache" and "kv_cache" in repr(tag("kv"))
    for bad in ("", "Weights", "untagged", "kv-cache", "\ud800"):
        with pytest.raises(ValueError, match="weights, kv_cache, activations, graphs, withheld"):
            tag(bad)
    for bad in (None, 1, b"weights", len):
        with pytest.raises(TypeError, match="a str"):
            tag(bad)


def test_blocks_nest():
    weights = tag("weights")
    with weights:
        with tag("kv"), weights:
            assert here() == "weights"
        assert here() == "weights"
        with tag("graphs"):
            assert here() == "graphs"
        assert here() == "weights"
    with pytest.raises(RuntimeError, match="not entered"):
        weights.__exit__(None, None, None)


def test_blocks_may_end_in_another_order():
    first, second = tag("weights"), tag("kv")
    first.__enter__()
    second.__enter__()
    first.__exit__()
    assert here() == "kv_cache"
    second.__exit__()
    assert here() is None


def test_exceptions_pass():
    error = ZeroDivisionError("x")

    @tag("weights")
    def raising():
        raise error

    async def later():
        raise error

    calls = [
        raising,
        lambda: asyncio.run(tag("kv")(later)()),
        lambda: asyncio.run(tag("kv").run(later())),
    ]
    for call in calls:
        with pytest.raises(ZeroDivisionError) as caught:
            call()
        assert caught.value is error and error.__context__ is None and here() is None
    with pytest.raises(ZeroDivisionError), tag("graphs"):
        raise error


def test_threads_have_their_own():
    shared, barrier, seen = tag("weights"), threading.Barrier(5), []

    def work():
        assert here() is None
        barrier.wait()
        for name in ("kv_cache", "graphs") * 50:
            with shared, tag(name):
                seen.append(here() == name)
            assert here() is None

    threads = [threading.Thread(target=work) for _ in range(4)]
    with tag("activations"):
        for thread in threads:
            thread.start()
        barrier.wait()
        assert here() == "activations"
        for thread in threads:
            thread.join()
        assert here() == "activations"
    assert seen == [True] * 400


def test_functions():
    @tag("weights")
    def load(a, b=2):
        """Loads."""
        return here(), a + b

    assert load(1, b=4) == ("weights", 5) and load.__doc__ == "Loads."
    assert str(inspect.signature(load)) == "(a, b=2)"
    for kind in (property, staticmethod, classmethod):
        with pytest.raises(TypeError, match=f"tag.. wraps functions, not {kind.__name__}"):
            tag("kv")(kind(lambda self: 1))


def test_generators_are_tagged_while_they_run():
    @tag("kv")
    def numbers():
        try:
            got = yield here()
            with tag("graphs"):
                got = yield (got, here())
            try:
                yield here()
            except KeyError:
                yield "caught", here()
            return "returned"
        finally:
            ended.append(here())

    ended = []
    running = numbers()
    assert next(running) == "kv_cache" and here() is None
    with tag("weights"):
        assert running.send(5) == (5, "graphs") and here() == "weights"
        assert running.send(None) == "kv_cache" and here() == "weights"
    assert running.throw(KeyError()) == ("caught", "kv_cache") and here() is None
    with pytest.raises(StopIteration) as stop:
        next(running)
    assert stop.value.value == "returned" and ended == ["kv_cache"]
    running = numbers()
    next(running)
    del running
    assert ended == ["kv_cache"] * 2 and here() is None


def test_a_plain_block_that_waits_keeps_its_tag_to_itself():
    async def tagged(name, n):
        assert here() is None
        with tag(name):
            for _ in range(n):
                assert here() == name
                await asyncio.sleep(0.001 * n if n % 2 else 0)
            with tag("graphs"):
                await asyncio.sleep(0)
                assert here() == "graphs"
            assert here() == name
        assert here() is None
        await asyncio.sleep(0)
        assert here() is None

    async def plain(n):
        for _ in range(n):
            assert here() is None
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(tagged("weights", 3), plain(9), tagged("kv_cache", 4), plain(9))
        assert here() is None

    for _ in range(3):
        asyncio.run(main())


@pytest.mark.parametrize("debug", [False, True])
def test_the_first_step_of_all(debug):
    """A block in the step that was running before anybody followed steps."""

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: seen.append(here()))
        with tag("weights"):
            await asyncio.sleep(0)
            seen.append(here())
        seen.append(here())

    seen = []
    asyncio.run(main(), debug=debug)
    with tag("graphs"):
        asyncio.run(main(), debug=debug)
        assert here() == "graphs"
    assert seen == [None, "weights", None, "graphs", "weights", "graphs"]


def test_tasks_made_in_a_block_are_in_it_while_it_lasts():
    async def child(event=None):
        seen = [await asyncio.sleep(0, here())]
        if event is not None:
            await event.wait()
        return [*seen, here()]

    async def main():
        event = asyncio.Event()
        with tag("weights"):
            long = asyncio.create_task(child(event))
            with tag("kv"):
                nested = await asyncio.wait_for(child(), 5)
            both = await asyncio.gather(child(), child())
        event.set()
        return nested, both, await long

    nested, both, long = asyncio.run(main())
    assert nested == ["kv_cache"] * 2 and both == [["weights"] * 2] * 2
    assert long == ["weights", None]


def test_run_and_decorated_coroutines():
    async def body():
        seen = [here()]
        await asyncio.sleep(0)
        with tag("graphs"):
            seen.append(here())
            await asyncio.sleep(0)
            seen.append(here())
        return [*seen, here()]

    async def plain():
        return [await asyncio.sleep(0, here()) for _ in range(5)]

    class Model:
        async def __call__(self):
            return await body()

    async def main():
        weights = tag("weights")
        decorated = weights(body)
        assert inspect.iscoroutinefunction(decorated)
        calls = [decorated(), plain(), tag("kv").run(body()), weights(functools.partial(body))()]
        return await asyncio.gather(*calls, weights(Model())())

    weights, none, cache, partial, called = asyncio.run(main())
    assert weights == partial == called == ["weights", "graphs", "graphs", "weights"]
    assert cache == ["kv_cache", "graphs", "graphs", "kv_cache"] and none == [None] * 5


def test_run_needs_no_loop_of_asyncio():
    class Pause:
        def __await__(self):
            yield "pause"

    async def body():
        with tag("graphs"):
            await Pause()
            seen.append(here())
        await Pause()
        seen.append(here())

    seen = []
    tasks = [tag(name).run(body()) for name in ("weights", "kv")]
    for _ in range(2):
        for task in tasks:
            assert task.send(None) == "pause" and here() is None
    for task in tasks:
        with pytest.raises(StopIteration):
            task.send(None)
    assert seen == ["graphs", "graphs", "weights", "kv_cache"]


def test_async_generators_and_cancellation():
    ended = []

    @tag("kv")
    async def numbers():
        try:
            while True:
                await asyncio.sleep(0)
                yield here()
        finally:
            ended.append(here())

    async def plain():
        with tag("activations"):
            async with contextlib.aclosing(numbers()) as running:
                async for seen in running:
                    assert (seen, here()) == ("kv_cache", "activations")
                    break
        assert here() is None

    async def waiting():
        async with tag("weights"):
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(here())

    async def main():
        task = asyncio.create_task(waiting())
        await plain()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(waiting(), 0.01)
        assert here() is None

    asyncio.run(main())
    assert ended == ["kv_cache", "weights", "weights"]


def test_loops_on_several_threads():
    async def body(name):
        for _ in range(20):
            with tag(name):
                await asyncio.sleep(0)
                assert here() == name
                await asyncio.sleep(0.0005)
                assert here() == name
            assert here() is None

    async def main(name):
        await asyncio.gather(body(name), body("graphs"))
        done.append(name)

    names, done = ("weights", "kv_cache", "activations"), []
    threads = [threading.Thread(target=lambda name=name: asyncio.run(main(name))) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == sorted(names)


def test_work_handed_to_a_thread():
    def plain():
        return _tag_name(_thread_tag())

    def nested():
        with tag("kv"):
            assert here() == "kv_cache"
        return plain()

    async def main():
        with tag("weights"):
            handed = [asyncio.to_thread(f) for f in (plain, tag("weights")(plain), nested, plain)]
            return [await one for one in handed]

    assert asyncio.run(main()) == [None, "weights", None, None]


#: Allocates under tags, and prints what is live by tag, in MiB.
ALLOCATE = (
    CUDA
    + """
import asyncio
from memvelope import Session, tag

async def part(name, mib, rounds=3):
    async def allocate():
        await asyncio.sleep(0)
        allocated(mib << 20)
    for _ in range(rounds):
        if name is None:
            await allocate()
        else:
            with tag(name):
                await allocate()

async def main():
    await asyncio.gather(part('weights', 2), part('kv', 4), part(None, 8), part('graphs', 16))
"""
)


def live_by_tag(snapshot):
    by_tag = snapshot["devices"][0]["totals"]["by_tag"]
    return [tag["live_bytes"] >> 20 for tag in by_tag]


def test_allocations_carry_it(child, sim_libs):
    code = """
context()
with Session.start() as session:
    asyncio.run(main())
    print(json.dumps(session.snapshot()))
"""
    printed = child(ALLOCATE + "import json\n" + code, LD_LIBRARY_PATH=sim_libs)
    assert live_by_tag(json.loads(printed)) == [24, 6, 12, 0, 48, 0]


@pytest.mark.parametrize("first", ["tag", "driver"])
def test_they_reach_the_library_that_was_injected(child, sim_libs, tmp_path, first):
    """Also where the driver loads it inside of the block, and where nobody starts a session here."""
    try:
        inject = memvelope.inject_path()
    except FileNotFoundError as error:
        pytest.skip(f"ignored: {str(error).splitlines()[0]}")
    tagged = "with tag('weights'):\n    {}allocated(5 << 20)\n"
    code = {
        "tag": tagged.format("context()\n    "),
        "driver": "context()\n" + tagged.format(""),
    }[first]
    report = tmp_path / "report.json"
    child(
        ALLOCATE + code,
        LD_LIBRARY_PATH=sim_libs,
        CUDA_INJECTION64_PATH=inject,
        MEMVELOPE_REPORT=str(report),
    )
    snapshot = json.loads(report.read_text())["snapshot"]
    assert live_by_tag(snapshot) == [0, 5, 0, 0, 0, 0]
