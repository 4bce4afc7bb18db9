//! External correlation: ids that a thread pushes, one stack for each external kind.

use crate::cupti::layout::{Record, external};
use crate::cupti::pending;
use std::cell::RefCell;
use std::collections::VecDeque;

/// External kinds are 1 to this: unknown, OpenACC, and three of the client's own.
const KIND_LAST: usize = 5;

thread_local! {
    static STACKS: RefCell<[Vec<u64>; KIND_LAST]> =
        const { RefCell::new([const { Vec::new() }; KIND_LAST]) };
}

/// What went wrong with a push or a pop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No such external kind.
    Kind,
    /// Nothing to pop.
    Empty,
}

fn with_stack<R>(kind: u32, action: impl FnOnce(&mut Vec<u64>) -> R) -> Result<R, Refused> {
    let index = (kind as usize).checked_sub(1).filter(|index| *index < KIND_LAST);
    let index = index.ok_or(Refused::Kind)?;
    // A thread that is ending has no stacks any more: as good as empty ones.
    STACKS.try_with(|stacks| action(&mut stacks.borrow_mut()[index])).map_err(|_| Refused::Empty)
}

/// Pushes an id of the calling thread.
pub(crate) fn push(kind: u32, id: u64) -> Result<(), Refused> {
    with_stack(kind, |stack| stack.push(id))
}

/// Pops the last id of the calling thread.
pub(crate) fn pop(kind: u32) -> Result<u64, Refused> {
    with_stack(kind, Vec::pop)?.ok_or(Refused::Empty)
}

/// A record for each external kind that the calling thread carries an id of.
pub(crate) fn records(version: u32, correlation: u32) -> VecDeque<Record> {
    if !pending::is_on(external::LAYOUT.kind) {
        return VecDeque::new();
    }
    let tops = STACKS.try_with(|stacks| stacks.borrow().each_ref().map(|ids| ids.last().copied()));
    let tops = tops.unwrap_or([None; KIND_LAST]).into_iter().zip(1_u64..);
    tops.filter_map(|(id, kind)| {
        let record = Record::new(&external::LAYOUT, version)
            .with(external::KIND, kind)
            .with(external::ID, id?)
            .with(external::CORRELATION, u64::from(correlation));
        Some(record)
    })
    .collect()
}
