"""Which scope work is launched in, on the simulated driver, in processes of their own. CUPTI is asked
at each launch what it has been told: the id on top of its stack for the thread, whose upper bits are
the scope's name."""

import json

import memvelope
import pytest
from test_sim import CUDA

#: `launch()` makes a call that CUPTI ties to the scope on top of its stack, and returns that scope's
#: name: `None` outside of every scope.
LAUNCH = (
    CUDA
    + """
import asyncio, threading
from memvelope import Session, profile

CUSTOM2 = 5  # the kind of ids that are memvelope's
NAMES = {0: None}

def told():
    cupti = ctypes.CDLL('libcupti.so.13')
    found = ctypes.c_uint64()
    if cupti.cuptiActivityPopExternalCorrelationId(CUSTOM2, ctypes.byref(found)) != 0:
        return 0
    assert cupti.cuptiActivityPushExternalCorrelationId(CUSTOM2, found) == 0
    return found.value

def named(*names):
    for name in names:
        with profile(name):
            NAMES[told() >> 44] = name
    assert len(NAMES) == len(names) + 1 and told() == 0, NAMES

def launch():
    call('cuMemsetD8_v2', memory, ctypes.c_ubyte(0), ctypes.c_size_t(64))
    return NAMES[told() >> 44]

context()
session = Session.start()
memory = allocated(1 << 20)
"""
)


@pytest.fixture
def launched(child, sim_libs):
    """Runs code that prints one JSON document."""

    def run(code, **extra):
        return json.loads(child(LAUNCH + code, LD_LIBRARY_PATH=sim_libs, **extra))

    return run


def test_blocks_threads_and_functions(launched):
    code = """
named('a', 'b', 'f', 'g')
seen = [launch()]
with profile('a'):
    seen.append(launch())
    with profile('b'):
        seen.append(launch())
        # Another thread has a stack and a current context of its own.
        other = []
        thread = threading.Thread(target=lambda: (context(), other.append(launch())))
        thread.start()
        thread.join()
        seen.append(other[0])
    seen.append(launch())

@profile('f')
def f(n):
    seen.append(launch())
    return f(n - 1) if n else None
f(2)

@profile('g')
def g():
    yield launch()
    yield launch()
for name in g():
    seen += [name, launch()]
seen.append(launch())
session.stop()
print(json.dumps(seen))
"""
    assert launched(code) == [None, "a", "b", None, "a", *"fff", "g", None, "g", None, None]


def test_interleaved_tasks_are_exact_by_decorator_and_run(launched):
    code = """
named('a', 'b', 'c')
async def body():
    seen = [launch()]
    for _ in range(3):
        await asyncio.sleep(0)
        seen.append(launch())
    with profile('c'):
        seen.append(launch())
        await asyncio.sleep(0)
        seen.append(launch())
    await asyncio.sleep(0)
    return [*seen, launch()]
a, b = profile('a')(body), lambda: profile('b').run(body())
async def main():
    seen = await asyncio.gather(a(), b(), body())
    return [*seen, launch()]
print(json.dumps(asyncio.run(main())))
session.stop()
"""
    a, b, none, after = launched(code)
    # A block in them that awaits is exact too; one in a task of its own is not, if others come
    # between: the launch after its await is made when the others have left theirs.
    assert a == ["a", "a", "a", "a", "c", "c", "a"]
    assert b == ["b", "b", "b", "b", "c", "c", "b"]
    assert none[:5] == [None, None, None, None, "c"] and none[6] is None
    assert after is None


def test_async_generators_and_cancellation_are_exact(launched):
    code = """
named('numbers', 'wait')
seen = []

@profile('numbers')
async def numbers():
    try:
        while True:
            await asyncio.sleep(0)
            yield launch()
    finally:
        seen.append(launch())

@profile('wait')
async def wait():
    try:
        await asyncio.sleep(60)
    finally:
        seen.append(launch())
        await asyncio.sleep(0)
        seen.append(launch())

async def main():
    running = numbers()
    seen.append(await anext(running))
    seen.append(launch())
    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    seen.append(await anext(running))
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await running.aclose()
    seen.append(launch())
asyncio.run(main())
session.stop()
print(json.dumps(seen))
"""
    assert launched(code) == ["numbers", None, "numbers", "wait", "wait", "numbers", None]


def test_blocks_that_await_do_not_nest_in_other_tasks(launched):
    """What is documented of `with` and `async with` in tasks: the scopes in force are those of the
    task that entered or left a profile last."""
    code = """
named('server', 'a', 'b')
seen = []
async def first():
    async with profile('a'):
        seen.append(launch())
        await asyncio.sleep(0)
        seen.append(launch())  # 'b' was left last, by the other task
    seen.append(launch())
async def second():
    seen.append(launch())  # 'a' was entered last, by the other task
    with profile('b'):
        seen.append(launch())
    seen.append(launch())  # not in 'a'
async def main():
    await asyncio.gather(first(), second())
with profile('server'):
    asyncio.run(main())
seen.append(launch())
session.stop()
print(json.dumps(seen))
"""
    assert launched(code) == ["a", "a", "b", "server", "server", "server", None]


def test_requests_of_a_server_are_told_apart(launched, tmp_path):
    code = f"""
from memvelope.asgi import ProfileMiddleware
named('http GET', 'http POST')
seen = []
async def app(scope, receive, send):
    for _ in range(3):
        seen.append(launch() == 'http ' + scope['method'])
        await asyncio.sleep(0)
async def main():
    served = ProfileMiddleware(app)
    await asyncio.gather(*(
        served(dict(type='http', method=method, headers=[]), None, None)
        for method in ('GET', 'POST') * 20))
asyncio.run(main())
session.stop()
session.write_trace({str(tmp_path / "trace.json")!r})
print(json.dumps([len(seen), all(seen)]))
"""
    assert launched(code) == [120, True]
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert sum(event["name"].startswith("http ") for event in events) == 42


def test_an_injected_program_tells_its_scopes_to_the_one_that_records(child, sim_libs):
    # The driver loads the injection library in cuInit; the session here is that one's client.
    code = """
assert session.report()['state'] == 'recording', session.report()
named('a', 'b')
seen = [launch()]
with profile('a', trace_id='0af7651916cd43dd8448eb211c80319c'):
    seen.append(launch())
async def body():
    with profile('b'):
        seen.append(launch())
    await asyncio.sleep(0)
    seen.append(launch())
asyncio.run(profile('a').run(body()))
seen.append(launch())
print(json.dumps(seen))
"""
    printed = child(
        LAUNCH + code, LD_LIBRARY_PATH=sim_libs, CUDA_INJECTION64_PATH=memvelope.inject_path()
    )
    assert json.loads(printed.splitlines()[-1]) == [None, "a", "b", "a", None]


def test_an_injected_program_need_not_start_a_session(child, sim_libs):
    code = LAUNCH.replace("session = Session.start()\n", "") + """
assert Session.current() is None
named('a')
seen = [launch()]
with profile('a'):
    seen.append(launch())
seen.append(launch())
assert Session.current() is None
print(json.dumps(seen))
"""
    printed = child(
        code, LD_LIBRARY_PATH=sim_libs, CUDA_INJECTION64_PATH=memvelope.inject_path()
    )
    assert json.loads(printed.splitlines()[-1]) == [None, "a", None]


def test_a_forked_child_is_in_no_scope(launched):
    code = """
import os
named('a')
with profile('a'):
    pid = os.fork()
    if pid == 0:
        with profile('child'):
            os._exit(0 if Session.current() is None else 1)
    assert os.waitpid(pid, 0)[1] == 0
    seen = [launch()]
seen.append(launch())
session.stop()
print(json.dumps(seen))
"""
    assert launched(code) == ["a", None]
