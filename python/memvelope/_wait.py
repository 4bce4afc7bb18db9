"""`Gate.wait_admit`: the coroutine over a place in the queue.

Imported when somebody first waits, because asyncio takes longer to import than all of memvelope.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import SupportsIndex

    from ._native import Gate, Lease

#: How often a waiting task looks for itself, in seconds. Nothing depends on it: the timer is there
#: because the loop holds its timers, and by it the task. A loop holds no task that waits for
#: anything else, and the gate must not: what waits in a loop that is gone could never be collected.
LOOK_S = 3600.0


def _settle(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _waker(loop: asyncio.AbstractEventLoop, woken: asyncio.Future[None]) -> Callable[[], None]:
    """Wakes a task from any thread. Holds neither the task nor its loop: the gate holds this."""
    loop_ref, woken_ref = weakref.ref(loop), weakref.ref(woken)

    def wake() -> None:
        loop, woken = loop_ref(), woken_ref()
        if loop is None or woken is None:
            return
        try:
            loop.call_soon_threadsafe(_settle, woken)
        except RuntimeError:
            # A closed loop runs nothing any more. The task's place is given up with the task.
            if not loop.is_closed():
                raise

    return wake


async def wait_admit(
    gate: Gate,
    prompt_tokens: SupportsIndex,
    max_new_tokens: SupportsIndex | None = None,
    pool: str | None = None,
    klass: str | None = None,
    *,
    prefix: tuple[int | bytes | str, int] | None = None,
    timeout: float | None = None,
    priority: int = 0,
) -> Lease:
    loop = asyncio.get_running_loop()
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout={timeout} is not a number of seconds: expected 0 or more")
    until = float("inf") if timeout is None else loop.time() + timeout
    ticket = gate._enqueue(prompt_tokens, max_new_tokens, pool, klass, prefix, priority)
    try:
        while True:
            woken = loop.create_future()
            lease = ticket.take(_waker(loop, woken))
            if lease is not None:
                return lease
            now = loop.time()
            if now >= until:
                return ticket.expire()
            timer = loop.call_at(min(until, now + LOOK_S), _settle, woken)
            try:
                await woken
            finally:
                timer.cancel()
    finally:
        # Cancelled: the place is given up, and a lease that came too late is released.
        ticket.close()
