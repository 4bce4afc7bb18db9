//! From a frame to the one that called it, by the unwind table of the object that it is in.
//!
//! Only by the table: where an address has no entry there is no answer, and nothing is guessed from
//! frame pointers. gimli reads tables without allocation or locks; what it needs is in [`Context`].

#![expect(unsafe_code, reason = "reads registers, and unwind tables in place")]

use super::object::Object;
use super::rules::{Origin, Rule, Rules, digest};
use super::stack::Stack;
use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EhFrameOffset, EndianSlice, Expression,
    LittleEndian, Operation, ParsedEhFrameHdr, Pointer, Register, RegisterRule, UnwindContext,
    UnwindContextStorage, UnwindExpression, UnwindSection, UnwindTableRow,
};

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// Rules of a row: one for each register there is, and some.
const RULES_MAX: usize = 32;

/// In place, so that nothing is allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fixed;

impl UnwindContextStorage<usize> for Fixed {
    type Rules = [(Register, RegisterRule<usize>); RULES_MAX];
    type Stack = [UnwindTableRow<usize, Self>; 4];
}

/// What steps need besides the stack.
#[derive(Debug)]
pub(super) struct Context {
    evaluation: UnwindContext<usize, Fixed>,
    rules: Rules,
}

impl Context {
    pub(super) fn new() -> Self {
        Self { evaluation: UnwindContext::new_in(), rules: Rules::new() }
    }
}

/// Numbers of x86-64's registers in unwind tables (psABI, figure 3.36).
const RBX: u16 = 3;
const RBP: u16 = 6;
const RSP: u16 = 7;
const R12: u16 = 12;
pub(super) const RETURN_ADDRESS: u16 = 16;
const COUNT: usize = 17;

/// What a called function gives back unchanged, unless its table says where it put it.
pub(super) const PRESERVED: [u16; 6] = [RBX, RBP, R12, 13, 14, 15];

/// The registers of a frame; unknown ones are `None`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers([Option<u64>; COUNT]);

impl Registers {
    /// Those of the function that this is inlined into.
    #[inline(always)]
    pub(super) fn here() -> Self {
        let mut seen = [0_u64; 8];
        // SAFETY: registers are stored into `seen`; nothing else changes.
        unsafe {
            std::arch::asm!(
                "mov [{to}], rbx",
                "mov [{to} + 8], rbp",
                "mov [{to} + 16], rsp",
                "mov [{to} + 24], r12",
                "mov [{to} + 32], r13",
                "mov [{to} + 40], r14",
                "mov [{to} + 48], r15",
                "lea {ip}, [rip]",
                "mov [{to} + 56], {ip}",
                to = in(reg) seen.as_mut_ptr(),
                ip = out(reg) _,
                options(nostack, preserves_flags),
            );
        }
        let [rbx, rbp, rsp, r12, r13, r14, r15, ip] = seen;
        let mut registers = Self([None; COUNT]);
        let of = [(RBX, rbx), (RBP, rbp), (RSP, rsp), (R12, r12), (13, r13), (14, r14), (15, r15)];
        for (number, value) in of {
            registers.set(number, Some(value));
        }
        registers.set(RETURN_ADDRESS, Some(ip));
        registers
    }

    pub(super) fn set(&mut self, number: u16, value: Option<u64>) {
        if let Some(place) = self.0.get_mut(usize::from(number)) {
            *place = value;
        }
    }

    pub(super) fn get(&self, number: u16) -> Option<u64> {
        self.0.get(usize::from(number)).copied().flatten()
    }

    /// Those of the caller, of which so far the stack pointer is known. `None` if that makes no sense:
    /// a frame is above those that it called, and there is a return address between them.
    pub(super) fn caller_at(&self, frame: u64) -> Option<Self> {
        if frame < self.stack_pointer()?.checked_add(8)? {
            return None;
        }
        let mut caller = Self([None; COUNT]);
        caller.set(RSP, Some(frame));
        Some(caller)
    }

    /// Where the frame goes on.
    pub(super) fn address(&self) -> Option<u64> {
        self.get(RETURN_ADDRESS)
    }

    pub(super) fn stack_pointer(&self) -> Option<u64> {
        self.get(RSP)
    }
}

/// An object's unwind table.
pub(super) struct Table<'a> {
    header: ParsedEhFrameHdr<Bytes<'a>>,
    /// Of the header, if it is written as linkers write it: where code begins and where its entry is,
    /// both from the header's address on, in the order of the code.
    rows: Option<(u64, &'a [[u8; 8]])>,
    frames: EhFrame<Bytes<'a>>,
    frames_at: u64,
    bytes: &'a [u8],
    bases: BaseAddresses,
}

/// The first bytes of such a header: version 1, where the entries are and how many there are as numbers
/// of four bytes, rows of two such numbers from the header's address on.
const USUAL_HEADER: [u8; 4] = [1, 0x1b, 0x03, 0x3b];

/// Entries longer than this are evaluated each time. Compilers write some tens of bytes.
const ENTRY_BYTES_MAX: usize = 2048;

impl Table<'_> {
    /// `None` if it has none, or one that cannot be searched.
    ///
    /// # Safety
    /// As for [`Object::bytes_from`].
    pub(super) unsafe fn of(object: &Object) -> Option<Self> {
        // SAFETY: the caller's promise.
        let bytes = unsafe { object.bytes_from(object.table) }?;
        let rows = usual_rows(bytes).map(|rows| (object.table, rows));
        let header = EhFrameHdr::new(bytes, LittleEndian);
        let bases = BaseAddresses::default().set_eh_frame_hdr(object.table);
        let header = header.parse(&bases, 8).ok()?;
        let Pointer::Direct(frames_at) = header.eh_frame_ptr() else { return None };
        // SAFETY: the caller's promise.
        let bytes = unsafe { object.bytes_from(frames_at) }?;
        let frames = EhFrame::new(bytes, LittleEndian);
        let bases = bases.set_eh_frame(frames_at);
        Some(Self { header, rows, frames, frames_at, bytes, bases })
    }

    /// Where the entry is that may be the one of the code there.
    fn entry_at(&self, address: u64) -> Option<u64> {
        if let Some((base, rows)) = self.rows {
            let number = |row: &[u8; 8], at: usize| {
                let bytes = row.get(at..)?.first_chunk()?;
                base.checked_add_signed(i32::from_le_bytes(*bytes).into())
            };
            let count =
                rows.partition_point(|row| number(row, 0).is_some_and(|start| start <= address));
            return number(rows.get(count.checked_sub(1)?)?, 4);
        }
        match self.header.table()?.lookup(address, &self.bases).ok()? {
            Pointer::Direct(at) => Some(at),
            Pointer::Indirect(_) => None,
        }
    }

    /// A digest of the entry's bytes, and of those of what it has in common with others.
    fn digest_of(&self, at: u64) -> Option<u64> {
        let start = usize::try_from(at.checked_sub(self.frames_at)?).ok()?;
        let number =
            |at: usize| Some(u32::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?) as usize);
        let block = |start: usize| {
            let end = start.checked_add(4)?.checked_add(number(start)?)?;
            self.bytes.get(start..end).filter(|block| block.len() <= ENTRY_BYTES_MAX)
        };
        let common = start.checked_add(4)?.checked_sub(number(start.checked_add(4)?)?)?;
        Some(digest(digest(0, block(common)?), block(start)?))
    }

    fn entry(&self, address: u64) -> Option<gimli::FrameDescriptionEntry<Bytes<'_>>> {
        self.entry_in(address, self.entry_at(address)?)
    }

    /// The entry at `at`, if it is that of `address`.
    fn entry_in(&self, address: u64, at: u64) -> Option<gimli::FrameDescriptionEntry<Bytes<'_>>> {
        let offset = EhFrameOffset(usize::try_from(at.checked_sub(self.frames_at)?).ok()?);
        let cie = EhFrame::cie_from_offset;
        let entry = self.frames.fde_from_offset(&self.bases, offset, cie).ok()?;
        entry.contains(address).then_some(entry)
    }

    /// Whether a function begins there.
    pub(super) fn is_entry(&self, address: u64) -> bool {
        self.entry(address).is_some_and(|entry| entry.initial_address() == address)
    }

    /// The registers of the frame that called the one with `registers`. `is_called`: this one's
    /// address is where a call returns to.
    pub(super) fn caller(
        &self,
        registers: &Registers,
        is_called: bool,
        stack: &mut Stack,
        context: &mut Context,
    ) -> Option<Registers> {
        // A call may be the last instruction of a function: the one before is surely in it.
        let address = registers.address()?.checked_sub(u64::from(is_called))?;
        let at = self.entry_at(address)?;
        let origin = self.digest_of(at).map(|digest| Origin { address, entry: at, digest });
        let Context { evaluation, rules } = context;
        if let Some(rule) = origin.and_then(|origin| rules.get(&origin)) {
            return rule.apply(registers, stack);
        }
        let entry = self.entry_in(address, at)?;
        // Beyond a signal's frame is whoever was interrupted, who asked for nothing.
        if entry.is_signal_trampoline() {
            return None;
        }
        let (frames, bases) = (&self.frames, &self.bases);
        let row = entry.unwind_info_for_address(frames, bases, evaluation, address).ok()?;
        if let Some(rule) = Rule::of(row) {
            if let Some(origin) = origin {
                rules.keep(origin, rule);
            }
            return rule.apply(registers, stack);
        }
        self.by_row(row, entry.cie().encoding(), registers, stack)
    }

    /// The caller's registers, by a row of whatever rules.
    fn by_row(
        &self,
        row: &UnwindTableRow<usize, Fixed>,
        encoding: gimli::Encoding,
        registers: &Registers,
        stack: &mut Stack,
    ) -> Option<Registers> {
        let evaluate = |expression: &UnwindExpression<usize>, stack: &mut Stack| {
            let expression = expression.get(&self.frames).ok()?;
            value_of(expression, encoding, registers, stack)
        };
        let frame = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                registers.get(register.0)?.checked_add_signed(*offset)?
            }
            CfaRule::Expression(expression) => evaluate(expression, stack)?,
        };
        let mut caller = registers.caller_at(frame)?;
        for number in PRESERVED.into_iter().chain([RETURN_ADDRESS]) {
            let own = registers.get(number).filter(|_| number != RETURN_ADDRESS);
            let value = match row.register(Register(number)) {
                None | Some(RegisterRule::SameValue) => own,
                Some(RegisterRule::Offset(offset)) => stack.word(frame.checked_add_signed(offset)?),
                Some(RegisterRule::ValOffset(offset)) => frame.checked_add_signed(offset),
                Some(RegisterRule::Register(other)) => registers.get(other.0),
                Some(RegisterRule::Expression(at)) => {
                    evaluate(&at, stack).and_then(|at| stack.word(at))
                }
                Some(RegisterRule::ValExpression(value)) => evaluate(&value, stack),
                Some(_) => None,
            };
            caller.set(number, value);
        }
        Some(caller)
    }
}

/// The rows of a header that is written as usual.
fn usual_rows(header: &[u8]) -> Option<&[[u8; 8]]> {
    let (start, rest) = header.split_at_checked(12)?;
    let count = u32::from_le_bytes(*start.get(8..)?.first_chunk()?) as usize;
    let rows = rest.get(..count.checked_mul(8)?)?.as_chunks::<8>().0;
    start.starts_with(&USUAL_HEADER).then_some(rows)
}

/// The expressions that compilers write for frames that are aligned anew: a register and an offset,
/// what is stored there, and something added to it.
fn value_of(
    expression: Expression<Bytes<'_>>,
    encoding: gimli::Encoding,
    registers: &Registers,
    stack: &mut Stack,
) -> Option<u64> {
    let mut operations = expression.operations(encoding);
    let mut value: Option<u64> = None;
    while let Some(operation) = operations.next().ok()? {
        value = Some(match (operation, value) {
            (Operation::RegisterOffset { register, offset, .. }, None) => {
                registers.get(register.0)?.checked_add_signed(offset)?
            }
            (Operation::Deref { size: 8, space: false, .. }, Some(at)) => stack.word(at)?,
            (Operation::PlusConstant { value: more }, Some(value)) => value.checked_add(more)?,
            _ => return None,
        });
    }
    value
}
