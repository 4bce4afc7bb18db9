//! What an unwind table said of an address before: evaluating an entry takes longer than all the rest
//! of a step.
//!
//! A rule is kept with a digest of the very bytes that it was made of, and those are read anew each
//! time. So a library that was loaded where another one was does not get that one's rules.

use super::stack::Stack;
use super::unwind::{PRESERVED, RETURN_ADDRESS, Registers};
use gimli::{CfaRule, Register, RegisterRule, UnwindContextStorage, UnwindTableRow};

/// The rules of nearly all frames: the caller's stack pointer is a register and an offset, and what
/// was saved is at an offset from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    base: u16,
    offset: i32,
    return_address: i32,
    /// In the order of [`PRESERVED`]; [`UNTOUCHED`] is in its register still.
    saved: [i32; PRESERVED.len()],
}

const UNTOUCHED: i32 = i32::MAX;

impl Rule {
    /// `None` for rows that say something else.
    pub(super) fn of<S: UnwindContextStorage<usize>>(
        row: &UnwindTableRow<usize, S>,
    ) -> Option<Self> {
        let CfaRule::RegisterAndOffset { register, offset } = row.cfa() else { return None };
        let place_of = |number: u16| match row.register(Register(number)) {
            None | Some(RegisterRule::SameValue) => Some(UNTOUCHED),
            Some(RegisterRule::Offset(offset)) => {
                i32::try_from(offset).ok().filter(|offset| *offset != UNTOUCHED)
            }
            Some(_) => None,
        };
        let mut saved = [UNTOUCHED; PRESERVED.len()];
        for (place, number) in saved.iter_mut().zip(PRESERVED) {
            *place = place_of(number)?;
        }
        let return_address = place_of(RETURN_ADDRESS).filter(|at| *at != UNTOUCHED)?;
        let offset = i32::try_from(*offset).ok()?;
        Some(Self { base: register.0, offset, return_address, saved })
    }

    /// The registers of the caller.
    pub(super) fn apply(&self, registers: &Registers, stack: &mut Stack) -> Option<Registers> {
        let frame = registers.get(self.base)?.checked_add_signed(self.offset.into())?;
        let mut caller = registers.caller_at(frame)?;
        let mut saved = |at: i32| stack.word(frame.checked_add_signed(at.into())?);
        for (number, at) in PRESERVED.into_iter().zip(self.saved) {
            caller.set(number, if at == UNTOUCHED { registers.get(number) } else { saved(at) });
        }
        caller.set(RETURN_ADDRESS, saved(self.return_address));
        Some(caller)
    }
}

/// What a rule was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// Of the code.
    pub(super) address: u64,
    /// Of the entry.
    pub(super) entry: u64,
    /// Of the entry's bytes.
    pub(super) digest: u64,
}

/// Rules that are kept: each in the one place that its address has.
#[derive(Debug)]
pub(super) struct Rules(Box<[Option<(Origin, Rule)>]>);

/// Several times what a process has of ways to its allocations, in frames.
const PLACES: usize = 512;

impl Rules {
    pub(super) fn new() -> Self {
        Self(vec![None; PLACES].into())
    }

    fn place(address: u64) -> usize {
        // The upper bits of the product depend on all of the address's.
        (address.wrapping_mul(MULTIPLIER) >> 32) as usize % PLACES
    }

    pub(super) fn get(&self, origin: &Origin) -> Option<Rule> {
        let (known, rule) = (*self.0.get(Self::place(origin.address))?)?;
        (known == *origin).then_some(rule)
    }

    pub(super) fn keep(&mut self, origin: Origin, rule: Rule) {
        if let Some(place) = self.0.get_mut(Self::place(origin.address)) {
            *place = Some((origin, rule));
        }
    }
}

/// 2^64 over the golden ratio, made odd: what multiplicative hashing uses.
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// A digest of so many bytes, and of how many they are.
pub(super) fn digest(seed: u64, bytes: &[u8]) -> u64 {
    let mix = |sum: u64, word: u64| (sum.rotate_left(23) ^ word).wrapping_mul(MULTIPLIER);
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words
        .iter()
        .fold(mix(seed, bytes.len() as u64), |sum, word| mix(sum, u64::from_le_bytes(*word)));
    let last = rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let sum = mix(sum, last);
    sum ^ (sum >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_that_of_its_own_bytes() {
        let mut rules = Rules::new();
        let rule = Rule { base: 7, offset: 8, return_address: -8, saved: [UNTOUCHED; 6] };
        let digest_of = |bytes: &[u8]| digest(0, bytes);
        let origin = |bytes: &[u8]| Origin { address: 4096, entry: 64, digest: digest_of(bytes) };
        assert!(rules.get(&origin(b"first")).is_none());
        rules.keep(origin(b"first"), rule);
        assert_eq!(rules.get(&origin(b"first")).map(|rule| rule.offset), Some(8));
        for other in [
            origin(b"second"),
            Origin { address: 4097, ..origin(b"first") },
            Origin { entry: 65, ..origin(b"first") },
        ] {
            assert!(rules.get(&other).is_none());
        }
    }

    #[test]
    fn every_byte_and_the_length_are_in_the_digest() {
        let mut seen = std::collections::BTreeSet::new();
        for len in 0..40 {
            let plain = vec![0; len];
            assert!(seen.insert(digest(1, &plain)));
            for at in 0..len {
                for bit in 0..8 {
                    let mut one = plain.clone();
                    one[at] |= 1 << bit;
                    assert!(seen.insert(digest(1, &one)), "{len} {at} {bit}");
                }
            }
        }
    }
}
