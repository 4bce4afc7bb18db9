//! What holding the names of modules against the lists of a config may cost.
//!
//! A config of some megabytes can list so many names and expressions that searching them for every
//! module takes hours, though each list by itself is one that tools write.

use std::cell::Cell;

/// Comparisons of a character, for all modules together: some tenths of a second. Four million
/// searches for an expression that is not there take as many; a hundred expressions over ten
/// thousand modules are a quarter of that.
const COMPARISONS_MAX: u64 = 1 << 27;

/// What of the comparisons is left.
#[derive(Debug)]
pub(crate) struct Effort(Cell<u64>);

impl Default for Effort {
    fn default() -> Self {
        Self(Cell::new(COMPARISONS_MAX))
    }
}

impl Effort {
    /// As little as a test can wait for.
    #[cfg(test)]
    pub(super) fn little() -> Self {
        Self(Cell::new(1 << 20))
    }

    /// Takes so many; whether they were left.
    pub(super) fn spend(&self, comparisons: u64) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(comparisons));
        left > comparisons
    }

    /// Takes those of a search for one name through so many: most differ within some characters.
    pub(super) fn search(&self, names: usize) -> bool {
        const OF_ONE: u64 = 32;
        self.spend(u64::try_from(names).unwrap_or(u64::MAX).saturating_mul(OF_ONE))
    }

    /// Nothing is left, so that what was found counts no more.
    pub(crate) fn is_spent(&self) -> bool {
        self.0.get() == 0
    }
}
