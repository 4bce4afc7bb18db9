"""Waiting for the gate: order, time, cancellation, loops, threads, and the end of the process."""

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref

import pytest
from conftest import clean_env
from memvelope import Gate, Rejected

pytestmark = pytest.mark.filterwarnings("error")

POLICIES = ["guaranteed", "banker"]


def full_gate(policy, **keywords):
    """A gate of ten blocks, and the lease that holds all of them."""
    gate = Gate.from_blocks(10, policy=policy, max_model_len=160, estimate=False, **keywords)
    return gate, gate.admit(159, 1)


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


def rejected(gate):
    return {reason: count for reason, count in gate.usage()["rejected"].items() if count}


@pytest.mark.parametrize("policy", POLICIES)
def test_it_waits_for_room_and_only_then(policy):
    gate, held = full_gate(policy)

    async def main():
        waiter = asyncio.create_task(gate.wait_admit(16, 16))
        await turns()
        assert not waiter.done() and gate.usage()["waiting"] == 1
        assert gate.try_admit(1, 1) is None, "those who wait come first"
        why = gate.explain(1, 1)
        assert why["reason"] == "queued" and why["admitted_if"] == [{"queue_ahead": 1}]
        held.release()
        lease = await waiter
        assert lease.held_blocks == 1 and gate.usage()["waiting"] == 0
        with await gate.wait_admit(16, 16) as free:
            assert free.claim_blocks == 2, "at once, where there is room"
        lease.release()

    asyncio.run(main())
    assert gate.usage()["leases"] == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_order_is_by_arrival_and_priority(policy):
    gate, held = full_gate(policy)
    order = []

    async def one(name, priority):
        with await gate.wait_admit(159, 1, priority=priority):
            order.append(name)

    async def main():
        tasks = []
        for name, priority in [("first", 0), ("second", 0), ("urgent", 255), ("third", 0)]:
            tasks.append(asyncio.create_task(one(name, priority)))
            await turns()
        held.release()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert order == ["urgent", "first", "second", "third"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("timeout", [0, 0.02])
def test_a_timeout_expires(policy, timeout):
    gate, held = full_gate(policy)
    begin = time.monotonic()
    with pytest.raises(Rejected) as caught:
        asyncio.run(gate.wait_admit(16, 16, timeout=timeout))
    assert time.monotonic() - begin < 5
    assert caught.value.reason == "expired" and str(caught.value).startswith("expired: ")
    assert rejected(gate) == {"expired": 1} and gate.usage()["waiting"] == 0
    held.release()
    assert gate.try_admit(159, 1) is not None


def test_what_cannot_wait_is_refused_at_once():
    gate, held = full_gate("banker", queue_max=1)

    async def main():
        waiter = asyncio.create_task(gate.wait_admit(1, 1))
        await turns()
        for arguments, reason in [
            ((16, 16), "queue_full"),
            ((160, 1), "too_long"),
            ((0, 1), "bad_token_count"),
            ((1, 1, "no"), "unknown_pool"),
        ]:
            with pytest.raises(Rejected) as caught:
                await gate.wait_admit(*arguments)
            assert caught.value.reason == reason
        held.release()
        (await waiter).release()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("keywords", "error"),
    [
        ({"timeout": -1}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"priority": 256}, ValueError),
        ({"priority": -1}, ValueError),
        ({"prefix": 3}, TypeError),
        ({"class": "a"}, TypeError),
    ],
)
def test_bad_arguments(keywords, error):
    gate = Gate.from_blocks(10, max_model_len=160)

    async def main():
        await gate.wait_admit(16, 16, **keywords)

    with pytest.raises(error):
        asyncio.run(main())
    assert gate.usage()["waiting"] == gate.usage()["leases"] == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_cancelled_task_gives_its_place_up(policy):
    gate, held = full_gate(policy)

    async def main():
        big = asyncio.create_task(gate.wait_admit(159, 1))
        await turns()
        small = asyncio.create_task(gate.wait_admit(16, 16))
        await turns()
        held.release()
        assert gate.usage()["leases"] == 1, "granted to the first, which has not run yet"
        big.cancel()
        lease = await asyncio.wait_for(small, 5)
        with pytest.raises(asyncio.CancelledError):
            await big
        assert gate.usage()["leases"] == 1 and lease.claim_blocks == 2
        lease.release()

    asyncio.run(main())
    assert gate.usage()["leases"] == 0 and rejected(gate).keys() <= {"no_capacity"}


@pytest.mark.parametrize("policy", POLICIES)
def test_cancelled_while_it_waits_the_next_comes_in(policy):
    gate, held = full_gate(policy)
    held.release()
    held = gate.admit(120, 1)

    async def main():
        big = asyncio.create_task(gate.wait_admit(159, 1))
        await turns()
        small = asyncio.create_task(gate.wait_admit(16, 1))
        await turns()
        assert gate.usage()["waiting"] == 2
        big.cancel()
        (await asyncio.wait_for(small, 5)).release()
        assert rejected(gate) == {"cancelled": 1}

    asyncio.run(main())
    held.release()
    assert gate.usage()["leases"] == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_cancellation_races_with_the_grant(policy):
    """A thread gives blocks back while tasks are cancelled: nothing leaks, nobody is forgotten."""
    gate = Gate.from_blocks(10, policy=policy, max_model_len=160, estimate=False)

    async def main():
        for round_ in range(200):
            held = gate.admit(159, 1)
            tasks = [asyncio.create_task(gate.wait_admit(159, 1)) for _ in range(3)]
            await turns(2)
            thread = threading.Thread(target=held.release)
            thread.start()
            if round_ % 2:
                await asyncio.sleep(0)
            tasks[0].cancel()
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=10)
            assert done
            for task in tasks:
                try:
                    (await asyncio.wait_for(task, 10)).release()
                except asyncio.CancelledError:
                    pass
            thread.join()
            usage = gate.usage()
            assert usage["leases"] == usage["held_blocks"] == usage["waiting"] == 0

    asyncio.run(main())


def test_many_loops_in_many_threads():
    gate = Gate.from_blocks(64, max_model_len=512)
    failures, served = [], []

    async def client(number):
        with await gate.wait_admit(16 * (1 + number % 8), 64, klass=f"c{number % 3}") as lease:
            for _ in range(64):
                while lease.grow() is None:
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
            served.append(number)

    async def main():
        await asyncio.gather(*(client(number) for number in range(40)))

    def worker():
        try:
            asyncio.run(asyncio.wait_for(main(), 60))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(served) == 160
    usage = gate.usage()
    assert usage["leases"] == usage["held_blocks"] == usage["waiting"] == 0
    assert usage["held_peak_blocks"] <= 64


@pytest.mark.parametrize("policy", POLICIES)
def test_a_task_that_nobody_keeps_is_kept_by_its_loop(policy):
    gate, held = full_gate(policy)
    served = []

    async def one():
        with await gate.wait_admit(16, 16):
            served.append(1)

    async def main():
        kept = weakref.ref(asyncio.create_task(one()))
        await turns()
        gc.collect()
        assert kept() is not None
        held.release()
        await turns(10)

    asyncio.run(main())
    assert served == [1]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_loop_that_is_gone_leaves_nothing(policy):
    gate, held = full_gate(policy)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # says that a pending task was destroyed
    task = loop.create_task(gate.wait_admit(16, 16))
    loop.run_until_complete(turns())
    assert gate.usage()["waiting"] == 1
    loop.close()
    other = []

    async def main():
        waiter = asyncio.create_task(gate.wait_admit(159, 1))
        await turns()
        held.release()  # grants to the closed loop's task, and wakes into nowhere
        await turns()
        nonlocal task
        del task
        gc.collect()
        other.append(await asyncio.wait_for(waiter, 5))

    asyncio.run(main())
    other.pop().release()
    gc.collect()
    assert gate.usage()["leases"] == gate.usage()["waiting"] == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_waking_keeps_the_exception_that_is_on_its_way(policy):
    gate, held = full_gate(policy)
    box = [held]
    del held

    async def main():
        waiter = asyncio.create_task(gate.wait_admit(16, 16))
        await turns()
        # The argument is dropped, and with it the lease, when the call has failed already.
        with pytest.raises(ValueError, match="not in list"):
            [].index(box.pop())
        assert gate.usage()["waiting"] == 0
        (await asyncio.wait_for(waiter, 5)).release()

    asyncio.run(main())


@pytest.mark.parametrize(
    "end",
    [
        "pass",
        "cycle = [lease]; cycle.append(cycle); del lease",
        "import sys; sys.lease = lease; sys.loop = loop",
        "loop.close()",
        "del gate",
        "raise SystemExit(0)",
    ],
)
@pytest.mark.parametrize("policy", POLICIES)
def test_the_process_ends_in_silence(policy, end):
    code = f"""
import asyncio, memvelope
gate = memvelope.Gate.from_blocks(10, policy={policy!r}, max_model_len=160)
lease = gate.admit(159, 1)
async def main():
    task = asyncio.ensure_future(gate.wait_admit(16, 16))
    await asyncio.sleep(0.01)
    assert gate.usage()["waiting"] == 1
    return task
loop = asyncio.new_event_loop()
loop.set_exception_handler(lambda *_: None)
task = loop.run_until_complete(main())
ticket = gate._enqueue(16, 16, None, None, None, 0)
assert ticket.take(lambda: print("woken")) is None
{end}
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_env(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""


def test_a_forked_child_has_nothing_to_hand_out(child):
    out = child("""
import asyncio, os, memvelope
for policy in ("guaranteed", "banker", "optimistic"):
    gate = memvelope.Gate.from_blocks(10, policy=policy, max_model_len=160)
    lease = gate.admit(15, 33)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for refuse in (lambda: gate.admit(1, 1), lambda: asyncio.run(gate.wait_admit(1, 1))):
                try:
                    refuse()
                except memvelope.Rejected as rejected:
                    assert rejected.reason == "forked", rejected
                    assert "after the fork" in str(rejected)
                else:
                    raise AssertionError
            assert gate.explain(1, 1)["reason"] == "forked"
            assert lease.grow(20) is None and gate.grow_many([lease], 20) == b"\\0"
            assert lease.release() and gate.usage()["leases"] == 0
            assert gate.pool_usage("default")["leases"] == 0 and gate.victims() == []
            own = memvelope.Gate.from_blocks(10, policy=policy, max_model_len=160)
            assert own.admit(16, 16)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert lease.grow(20) == 2 and lease.release()
    assert gate.usage()["leases"] == 0
print("done")
""")
    assert out == "done\n"


def test_importing_memvelope_imports_no_asyncio(child):
    child("import sys, memvelope\nassert 'asyncio' not in sys.modules")
