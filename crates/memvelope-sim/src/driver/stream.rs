//! Streams, events and the calls that wait for them.

use crate::abi::{Code, Done};
use crate::driver::records::{self, waited};
use crate::edge::{get, put};
use crate::entry::Call;
use crate::world::timeline::{Event, LEGACY};
use crate::world::{Tag, World};

pub(crate) fn create(call: &Call, to: *mut u64, flags: u32, priority: i32) -> Done {
    call.world(|world| {
        let context = world.current()?;
        if flags > 1 {
            return Err(Code::INVALID_VALUE);
        }
        let handle = world.handle(Tag::Stream);
        world.make_stream(context, handle, flags);
        if let Some(stream) = world.streams.get_mut(&handle) {
            stream.priority = priority.clamp(-5, 0);
        }
        put(to, handle)
    })
}

pub(crate) fn destroy(call: &Call, handle: u64) -> Done {
    call.world(|world| {
        let stream = *world.streams.get(&handle).ok_or(Code::INVALID_HANDLE)?;
        if stream.flags & LEGACY != 0 {
            return Err(Code::INVALID_HANDLE);
        }
        // Queued work still runs, and the context waits for it; only the handle goes.
        world.streams.remove(&handle);
        world.queues.remove(&handle);
        world.graphs.forget(|gone| gone == handle);
        let context = world.context(stream.context)?;
        context.orphan_tail = context.orphan_tail.max(stream.tail);
        Ok(())
    })
}

/// How much the calling thread minds what others capture.
pub(crate) fn exchange_capture_mode(call: &Call, mode: *mut u32) -> Done {
    call.world(|_| {
        let wanted = get(mode.cast_const())?;
        if wanted > 2 {
            return Err(Code::INVALID_VALUE);
        }
        put(mode, crate::thread::exchange_capture_mode(wanted))
    })
}

pub(crate) fn flags(call: &Call, handle: u64, to: *mut u32) -> Done {
    call.world(|world| {
        let stream = world.stream(handle)?.1;
        put(to, stream.flags & !LEGACY)
    })
}

pub(crate) fn priority(call: &Call, handle: u64, to: *mut i32) -> Done {
    call.world(|world| {
        let stream = world.stream(handle)?.1;
        put(to, stream.priority)
    })
}

pub(crate) fn context(call: &Call, handle: u64, to: *mut u64) -> Done {
    call.world(|world| {
        let stream = world.stream(handle)?.1;
        put(to, stream.context)
    })
}

pub(crate) fn id(call: &Call, handle: u64, to: *mut u64) -> Done {
    call.world(|world| {
        let stream = world.stream(handle)?.1;
        put(to, u64::from(stream.id))
    })
}

/// Refuses to ask about, or wait for, a stream that is captured or would wait for one.
fn refuse_captured(world: &mut World, stream: u64) -> Done {
    let handle = world.stream_handle(stream)?;
    world.graphs.refuse_captured(handle)?;
    world.refuse_implicit_capture(handle)
}

pub(crate) fn query(call: &Call, handle: u64) -> Done {
    call.world(|world| {
        refuse_captured(world, handle)?;
        let done = world.done_at(handle)?;
        if done <= world.now { Ok(()) } else { Err(Code::NOT_READY) }
    })
}

pub(crate) fn synchronize(call: &Call, handle: u64) -> Done {
    call.world(|world| {
        let start = call.began();
        refuse_captured(world, handle)?;
        let stream = world.stream(handle)?.1;
        let done = world.done_at(handle)?;
        world.wait_until(done);
        let place = (stream.context, Some(stream.id), None);
        waited(world, call, records::STREAM, start, place);
        trim(world, stream.context);
        Ok(())
    })
}

pub(crate) fn synchronize_context(call: &Call) -> Done {
    call.world(|world| {
        let start = call.began();
        let context = world.current()?;
        world.refuse_captured_context(context)?;
        let done = world.context_done_at(context);
        world.wait_until(done);
        waited(world, call, records::CONTEXT, start, (context, None, None));
        trim(world, context);
        Ok(())
    })
}

/// A synchronisation lets pools shrink.
fn trim(world: &mut World, context: u64) {
    if let Some(device) = world.contexts.get(&context).map(|context| context.device) {
        world.trim_pools_of(device);
    }
}

pub(crate) fn wait_event(call: &Call, stream: u64, event: u64) -> Done {
    call.world(|world| {
        let start = call.began();
        let (handle, stream) = world.stream(stream)?;
        let event_handle = event;
        let event = *world.event(event)?;
        if world.wait_captured(handle, event_handle)? {
            return Ok(());
        }
        if let Some(time) = event.time {
            world.set_tail(handle, time);
        }
        let place = (stream.context, Some(stream.id), Some(event.id));
        waited(world, call, records::STREAM_WAIT, start, place);
        Ok(())
    })
}

/// Runs a host function in stream order. Work has no effect but time here, so "in order" is now;
/// the stream's time does not move.
pub(crate) fn host_function(call: &Call, stream: u64, function: usize, data: u64) -> Done {
    call.world(|world| {
        let handle = world.stream_handle(stream)?;
        // Host nodes of graphs are not simulated.
        if world.graphs.is_captured(handle) { Err(Code::NOT_SUPPORTED) } else { Ok(()) }
    })?;
    if function == 0 {
        return Err(Code::INVALID_VALUE);
    }
    run_host_function(function, data);
    Ok(())
}

#[expect(unsafe_code, reason = "the program hands over a C function to call")]
fn run_host_function(function: usize, data: u64) {
    // SAFETY: the caller of cuLaunchHostFunc passes a function of this type; no lock is held.
    unsafe { std::mem::transmute::<usize, unsafe extern "C" fn(u64)>(function)(data) };
}

/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: u32 = 2;

pub(crate) fn event_create(call: &Call, to: *mut u64, flags: u32) -> Done {
    call.world(|world| {
        let context = world.current()?;
        let handle = world.handle(Tag::Event);
        let id = u32::try_from((handle >> 4) & 0xff_ffff).unwrap_or(0);
        let timed = flags & DISABLE_TIMING == 0;
        world.events.insert(handle, Event { context, id, timed, time: None, stream: 0 });
        put(to, handle)
    })
}

pub(crate) fn event_destroy(call: &Call, handle: u64) -> Done {
    call.world(|world| {
        world.events.remove(&handle).ok_or(Code::INVALID_HANDLE)?;
        world.graphs.forget(|gone| gone == handle);
        Ok(())
    })
}

pub(crate) fn event_record(call: &Call, event: u64, stream: u64) -> Done {
    call.world(|world| {
        let now = world.now;
        let handle = world.stream_handle(stream)?;
        world.event(event)?;
        if world.capture_event(event, handle) {
            return Ok(());
        }
        world.refuse_implicit_capture(handle)?;
        let done = world.done_at(stream)?.max(now);
        let id = world.stream(stream)?.1.id;
        let event = world.event(event)?;
        (event.time, event.stream) = (Some(done), id);
        Ok(())
    })
}

pub(crate) fn event_query(call: &Call, event: u64) -> Done {
    call.world(|world| {
        let now = world.now;
        world.graphs.refuse_captured_event(event)?;
        match world.event(event)?.time {
            Some(time) if time > now => Err(Code::NOT_READY),
            _ => Ok(()),
        }
    })
}

pub(crate) fn event_synchronize(call: &Call, event: u64) -> Done {
    call.world(|world| {
        let start = call.began();
        world.graphs.refuse_captured_event(event)?;
        let event = *world.event(event)?;
        world.wait_until(event.time.unwrap_or(0));
        let place = (event.context, Some(event.stream), Some(event.id));
        waited(world, call, records::EVENT, start, place);
        trim(world, event.context);
        Ok(())
    })
}

pub(crate) fn elapsed(call: &Call, to: *mut f32, from: u64, until: u64) -> Done {
    call.world(|world| {
        let now = world.now;
        let (from, until) = (*world.event(from)?, *world.event(until)?);
        if !from.timed || !until.timed {
            return Err(Code::INVALID_HANDLE);
        }
        let (Some(a), Some(b)) = (from.time, until.time) else { return Err(Code::INVALID_HANDLE) };
        if a > now || b > now {
            return Err(Code::NOT_READY);
        }
        let ns = b as i128 - a as i128;
        put(to, (ns as f64 / 1e6) as f32)
    })
}
