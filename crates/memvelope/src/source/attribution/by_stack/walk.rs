//! From a driver callback to who asked: first our own frames, then those of CUPTI, the driver and
//! the runtime, then the asker's.

#![expect(unsafe_code, reason = "looks into objects that have frames on this stack")]

use super::name::{Role, role_of};
use super::object::Object;
use super::stack::Stack;
use super::unwind::{Context, Registers, Table};

/// Frames that are looked at: CUPTI and the driver take some 20, the runtime 5.
const FRAMES_MAX: usize = 96;

/// What a walk works with, made once and used by one thread at a time.
#[derive(Debug)]
pub(super) struct Scratch {
    stack: Stack,
    context: Context,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self { stack: Stack::new(), context: Context::new() }
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Why {
    /// More threads ask at once than there is room for.
    Busy,
    /// Code that belongs to no loaded file: made at run time.
    NoObject,
    /// A file, or a function in it, without an entry in an unwind table.
    NoTable,
    /// The stack ended, or is too large.
    NoStack,
    /// We were not called through the driver.
    NoDriver,
}

impl Why {
    pub(super) const COUNT: usize = 5;

    pub(super) const ALL: [Self; Self::COUNT] =
        [Self::Busy, Self::NoObject, Self::NoTable, Self::NoStack, Self::NoDriver];

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Busy => "too many threads allocated at once",
            Self::NoObject => "code that belongs to no file is on the way to it",
            Self::NoTable => "code without an unwind table is on the way to it",
            Self::NoStack => "the stack could not be read so far",
            Self::NoDriver => "the call did not come through the driver",
        }
    }
}

/// Who asked for what the driver is doing on this thread.
#[inline(never)]
pub(super) fn asker(scratch: &mut Scratch) -> Result<Role, Why> {
    let mut registers = Registers::here();
    let Scratch { stack, context } = scratch;
    stack.begin(registers.stack_pointer().ok_or(Why::NoStack)?);
    let own = object_of(&registers, false)?;
    let (mut object, mut is_below_driver) = (own, true);
    // SAFETY: this very function is in the object.
    let mut table = unsafe { Table::of(&own) };
    for frame in 0..FRAMES_MAX {
        let known = table.as_ref().ok_or(Why::NoTable)?;
        registers = known.caller(&registers, frame > 0, stack, context).ok_or(Why::NoTable)?;
        let address = registers.address().ok_or(Why::NoStack)?;
        if !object.has_code(address.wrapping_sub(1)) {
            object = object_of(&registers, true)?;
            // SAFETY: the frame that was just found is in the object.
            table = unsafe { Table::of(&object) };
        }
        if is_below_driver && own.holds(address) {
            continue;
        }
        // SAFETY: as above.
        match role_of(unsafe { object.path() }) {
            Role::Plumbing => is_below_driver = false,
            _ if is_below_driver => return Err(Why::NoDriver),
            Role::Transparent => {}
            role => return Ok(passed_on_by(&object, table.as_ref(), address).unwrap_or(role)),
        }
    }
    Err(Why::NoStack)
}

fn object_of(registers: &Registers, is_called: bool) -> Result<Object, Why> {
    let address = registers.address().filter(|address| *address != 0).ok_or(Why::NoStack)?;
    Object::at(address.wrapping_sub(u64::from(is_called))).ok_or(Why::NoObject)
}

/// Another library that the asker called, and that passed the call on to the driver by a jump: it
/// left no frame, but where the call instruction before `address` names its function, that is seen.
/// `None` if it names one of the asker's own or of the driver, or none, as calls by pointer.
fn passed_on_by(caller: &Object, table: Option<&Table<'_>>, address: u64) -> Option<Role> {
    // SAFETY: `address` is of a frame in `caller`.
    let target = unsafe { call_target(caller, table, address) }?;
    if caller.holds(target) {
        return None;
    }
    // The library is one of those that the caller is bound to, which keeps it loaded.
    let object = Object::at(target)?;
    // SAFETY: as said.
    match role_of(unsafe { object.path() }) {
        role @ Role::Library(_) => Some(role),
        Role::Plumbing | Role::Transparent | Role::Program => None,
    }
}

/// The function that the call instruction before `address` names.
///
/// # Safety
/// `caller` has a frame on this stack.
unsafe fn call_target(caller: &Object, table: Option<&Table<'_>>, address: u64) -> Option<u64> {
    let before = |bytes: u64| {
        let at = address.checked_sub(bytes)?;
        // SAFETY: the caller's promise; code is not written to.
        unsafe { caller.bytes_from(at) }.filter(|_| caller.has_code(at))
    };
    let relative = |bytes: &[u8]| Some(i64::from(i32::from_le_bytes(*bytes.first_chunk()?)));
    // call *[rip + distance]
    if let Some([0xff, 0x15, distance @ ..]) = before(6) {
        let slot = address.checked_add_signed(relative(distance)?)?;
        // SAFETY: the caller's promise.
        return unsafe { caller.pointer_at(slot) };
    }
    // call distance: to a function, or to a stub of the linker's that jumps on.
    let Some([0xe8, distance @ ..]) = before(5) else { return None };
    let target = address.checked_add_signed(relative(distance)?)?;
    // SAFETY: the caller's promise; code is not written to.
    let code = unsafe { caller.bytes_from(target) }.filter(|_| caller.has_code(target))?;
    let (code, skipped) = match code {
        // endbr64
        [0xf3, 0x0f, 0x1e, 0xfa, rest @ ..] => (rest, 4),
        _ => (code, 0),
    };
    let (distance, skipped) = match code {
        // jmp *[rip + distance], and the same with a prefix
        [0xff, 0x25, rest @ ..] => (rest, skipped + 6),
        [0xf2, 0xff, 0x25, rest @ ..] => (rest, skipped + 7),
        // Whether these bytes are a call at all: one goes to where a function begins.
        _ => return table?.is_entry(target).then_some(target),
    };
    let slot = target.checked_add(skipped)?.checked_add_signed(relative(distance)?)?;
    // SAFETY: the caller's promise.
    unsafe { caller.pointer_at(slot) }
}
