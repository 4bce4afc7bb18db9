//! Streams and events on the virtual clock. A stream is a line of work in order; work begins when
//! the stream is free and the call was made. Different streams overlap without contention.

use crate::abi::{Code, Done};
use crate::cupti::layout::{self, Record};
use crate::thread;
use crate::world::{Tag, World};

/// `CU_STREAM_NON_BLOCKING`: does not wait for the legacy default stream.
pub(crate) const NON_BLOCKING: u32 = 1;
/// Our own mark on a legacy default stream.
pub(crate) const LEGACY: u32 = 1 << 16;
/// Work a stream may have queued; a call that would queue more waits for the oldest. Real drivers
/// block at about this depth, and it bounds what the simulator has to remember.
const QUEUE_DEPTH: usize = 1024;
/// `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD` as handles.
const LEGACY_HANDLE: u64 = 1;
pub(crate) const PER_THREAD_HANDLE: u64 = 2;

/// A stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    pub(crate) context: u64,
    /// CUPTI's id of it.
    pub(crate) id: u32,
    pub(crate) flags: u32,
    pub(crate) priority: i32,
    /// When its last work ends.
    pub(crate) tail: u64,
}

/// An event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) context: u64,
    pub(crate) id: u32,
    pub(crate) timed: bool,
    /// When it is reached; `None` before it was ever recorded.
    pub(crate) time: Option<u64>,
    /// CUPTI's id of the stream it was recorded on.
    pub(crate) stream: u32,
}

/// Where and when a piece of work runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) device: usize,
    pub(crate) context_uid: u32,
    pub(crate) stream: u32,
}

impl World {
    pub(crate) fn make_stream(&mut self, context: u64, handle: u64, flags: u32) {
        // Ids as CUPTI's look: the default stream of the first context is 7. Only their being
        // distinct matters.
        let id = u32::try_from((handle >> 4) & 0xff_ffff).unwrap_or(0) + 5;
        let tail = self.now;
        self.streams.insert(handle, Stream { context, id, flags, priority: 0, tail });
    }

    /// The stream behind a handle, default streams included.
    pub(crate) fn stream_handle(&mut self, handle: u64) -> Done<u64> {
        match handle {
            0 | LEGACY_HANDLE => {
                let context = self.current()?;
                Ok(self.context(context)?.legacy)
            }
            PER_THREAD_HANDLE => {
                let context = self.current()?;
                let thread = thread::number();
                if let Some(stream) = self.context(context)?.per_thread.get(&thread) {
                    return Ok(*stream);
                }
                let stream = self.handle(Tag::Stream);
                self.make_stream(context, stream, 0);
                self.context(context)?.per_thread.insert(thread, stream);
                Ok(stream)
            }
            handle if self.streams.contains_key(&handle) => Ok(handle),
            _ => Err(Code::INVALID_HANDLE),
        }
    }

    pub(crate) fn stream(&mut self, handle: u64) -> Done<(u64, Stream)> {
        let handle = self.stream_handle(handle)?;
        let stream = self.streams.get(&handle).ok_or(Code::INVALID_HANDLE)?;
        Ok((handle, *stream))
    }

    /// When work queued now on `stream` could begin.
    fn ready_at(&self, stream: &Stream) -> u64 {
        let Some(context) = self.contexts.get(&stream.context) else { return self.now };
        let others = if stream.flags & LEGACY != 0 {
            context.blocking_tail
        } else if stream.flags & NON_BLOCKING == 0 {
            context.legacy_tail
        } else {
            0
        };
        self.now.max(stream.tail).max(others)
    }

    /// Queues work that takes `duration` nanoseconds.
    pub(crate) fn enqueue(&mut self, stream: u64, duration: u64) -> Done<Slot> {
        let (handle, stream) = self.stream(stream)?;
        let oldest = {
            let now = self.now;
            let queue = self.queues.entry(handle).or_default();
            while queue.front().is_some_and(|end| *end <= now) {
                queue.pop_front();
            }
            if queue.len() < QUEUE_DEPTH { None } else { queue.pop_front() }
        };
        self.wait_until(oldest.unwrap_or(0));
        let start = self.ready_at(&stream);
        let end = start.saturating_add(duration);
        self.set_tail(handle, end);
        self.queues.entry(handle).or_default().push_back(end);
        let (device, context_uid) = {
            let context = self.context(stream.context)?;
            (context.device, context.uid)
        };
        let record = &mut self.devices[device];
        let from = start.max(record.busy_until);
        record.busy_ns += end.saturating_sub(from);
        record.busy_until = record.busy_until.max(end);
        Ok(Slot { start, end, device, context_uid, stream: stream.id })
    }

    /// Adds a record of work on the GPU. Without a place in CUPTI's device buffers, its times are
    /// lost.
    pub(crate) fn push_gpu_record(&mut self, slot: &Slot, mut record: Record) {
        if self.take_device_place(slot.context_uid) {
            self.activity.push_placed(slot.start, slot.end, record, slot.context_uid);
            return;
        }
        if let Some((start, end)) = layout::times_of(record.kind()) {
            record.set(start, 0);
            record.set(end, 0);
        }
        let now = self.now;
        self.activity.push(slot.start, slot.end, now, record);
    }

    /// Moves the end of a stream to `end` (never backwards).
    pub(crate) fn set_tail(&mut self, handle: u64, end: u64) {
        let Some(stream) = self.streams.get_mut(&handle) else { return };
        stream.tail = stream.tail.max(end);
        let (flags, tail) = (stream.flags, stream.tail);
        let Some(context) = self.contexts.get_mut(&stream.context) else { return };
        if flags & LEGACY != 0 {
            context.legacy_tail = context.legacy_tail.max(tail);
        } else if flags & NON_BLOCKING == 0 {
            context.blocking_tail = context.blocking_tail.max(tail);
        }
    }

    /// When everything queued on `stream` so far is done.
    pub(crate) fn done_at(&mut self, stream: u64) -> Done<u64> {
        let (_, stream) = self.stream(stream)?;
        if stream.flags & LEGACY == 0 {
            return Ok(stream.tail);
        }
        Ok(stream.tail.max(self.context(stream.context)?.blocking_tail))
    }

    /// When everything queued in `context` so far is done.
    pub(crate) fn context_done_at(&self, context: u64) -> u64 {
        let of_context = self.streams.values().filter(|stream| stream.context == context);
        let orphan = self.contexts.get(&context).map_or(0, |context| context.orphan_tail);
        of_context.map(|stream| stream.tail).max().unwrap_or(self.now).max(orphan)
    }

    /// Lets time pass until everything that is queued is done, but no longer than this.
    pub(crate) fn go_on_for(&mut self, ns: u64) {
        let done = self.contexts.keys().map(|context| self.context_done_at(*context)).max();
        let latest = self.now.saturating_add(ns);
        self.wait_until(done.unwrap_or(0).min(latest));
    }

    pub(crate) fn event(&mut self, handle: u64) -> Done<&mut Event> {
        self.events.get_mut(&handle).ok_or(Code::INVALID_HANDLE)
    }

    /// Share of the time since the last question during which the GPU was busy, in percent.
    pub(crate) fn utilization_percent(&mut self, device: usize) -> u32 {
        let now = self.now;
        let start = self.scenario.start_ns;
        let record = &mut self.devices[device];
        let done = record.busy_ns.saturating_sub(record.busy_until.saturating_sub(now));
        let (time, busy, last) = record.utilization;
        let elapsed = now.saturating_sub(time.max(start));
        if elapsed == 0 {
            return last;
        }
        let share = u128::from(done.saturating_sub(busy)) * 100 / u128::from(elapsed);
        let percent = u32::try_from(share).unwrap_or(100).min(100);
        record.utilization = (now, done, percent);
        percent
    }
}
