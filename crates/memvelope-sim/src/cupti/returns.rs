//! The way of a buffer back to the client: at once, or as the scenario's faults have it.

use crate::cupti::buffers::{Buffer, Complete, hand_over};
use crate::cupti::faults;
use crate::cupti::pending;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Full buffers that wait to be handed back in reverse, at most: a client has no more than so many.
const REORDERED_MAX: usize = 4;

static HELD: Mutex<Held> = Mutex::new(Held {
    flushes: 0,
    late: VecDeque::new(),
    reordered: Vec::new(),
    until_stop: Vec::new(),
});

/// Completed buffers that the client does not have back yet.
struct Held {
    /// Flushes so far.
    flushes: u64,
    /// By the flush that lets each go.
    late: VecDeque<(u64, Buffer)>,
    reordered: Vec<(Buffer, u64)>,
    until_stop: Vec<Buffer>,
}

/// What to hand over, and whether twice. No lock is held while the client has its turn.
type Out = Vec<(Buffer, bool)>;

fn held() -> MutexGuard<'static, Held> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives a full buffer back.
pub(crate) fn give_back(complete: Complete, buffer: Buffer) {
    let mut out = Vec::new();
    route(buffer, &mut out);
    if held().reordered.len() >= REORDERED_MAX {
        let reordered = std::mem::take(&mut held().reordered);
        for (buffer, late) in reordered.into_iter().rev() {
            hold_or(buffer, late, &mut out);
        }
    }
    hand_out(complete, &out);
}

/// Gives back what a flush found, and what was waiting for it.
pub(crate) fn flushed(complete: Complete, buffers: Vec<Buffer>) {
    held().flushes += 1;
    let mut out = Vec::new();
    for buffer in buffers {
        route(buffer, &mut out);
    }
    let reordered = std::mem::take(&mut held().reordered);
    for (buffer, late) in reordered.into_iter().rev() {
        hold_or(buffer, late, &mut out);
    }
    {
        let mut held = held();
        while held.late.front().is_some_and(|(due, _)| *due <= held.flushes) {
            out.extend(held.late.pop_front().map(|(_, buffer)| (buffer, false)));
        }
    }
    hand_out(complete, &out);
}

/// Hands back, on a thread of its own, what was kept until recording ended.
pub(crate) fn stopped(complete: Complete) {
    let buffers = std::mem::take(&mut held().until_stop);
    if !buffers.is_empty() {
        std::thread::spawn(move || {
            buffers.iter().for_each(|buffer| hand_over(complete, buffer));
        });
    }
}

/// Decides what becomes of a buffer: empty ones have no faults.
fn route(mut buffer: Buffer, out: &mut Out) {
    if buffer.is_empty() {
        return out.push((buffer, false));
    }
    let fate = faults::fate();
    buffer.spoil(&fate);
    if fate.after_stop && pending::any_on() {
        held().until_stop.push(buffer);
    } else if fate.reorder {
        held().reordered.push((buffer, fate.late));
    } else if fate.late != 0 {
        hold_or(buffer, fate.late, out);
    } else {
        out.push((buffer, fate.duplicate));
    }
}

/// Keeps a buffer for so many flushes.
fn hold_or(buffer: Buffer, late: u64, out: &mut Out) {
    if late == 0 {
        return out.push((buffer, false));
    }
    let mut held = held();
    let due = held.flushes + late;
    held.late.push_back((due, buffer));
}

fn hand_out(complete: Complete, out: &Out) {
    for (buffer, twice) in out {
        hand_over(complete, buffer);
        if *twice {
            hand_over(complete, buffer);
        }
    }
}
