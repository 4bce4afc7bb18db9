//! Which scope a call was made in: CUPTI ties the ids that we push around a scope to the correlation
//! ids of the calls in it, and those to the work that the calls launched.

use crate::event::ScopeId;

/// The latest correlation ids that belong to scopes, by their low bits. Correlation ids count up,
/// so an entry is overwritten once as many calls were recorded after it as there are entries; a
/// device's queues hold some thousand launches at most.
#[derive(Debug, Default)]
pub(super) struct Correlations {
    /// Empty until the first scope, so that a program without scopes pays nothing.
    entries: Box<[Entry]>,
    /// Entries that were overwritten before their work was seen, since last asked.
    unmatched: u64,
    /// Scopes that are over, whose ids CUPTI still tells.
    over: Vec<ScopeId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    correlation: u32,
    is_matched: bool,
    scope: ScopeId,
}

impl Correlations {
    const ENTRIES: usize = 1 << 16;

    /// Ids that CUPTI may still tell of scopes that are over: nothing belongs to them.
    pub(super) fn ignore(&mut self, over: Vec<ScopeId>) {
        self.over = over;
    }

    /// Notes that the call `correlation` was made in `scope`.
    pub(super) fn learn(&mut self, correlation: u32, scope: ScopeId) {
        if self.over.contains(&scope) {
            return;
        }
        if self.entries.is_empty() {
            self.entries = vec![Entry::default(); Self::ENTRIES].into();
        }
        let index = correlation as usize % Self::ENTRIES;
        if let Some(entry) = self.entries.get_mut(index) {
            self.unmatched += u64::from(entry.scope.is_some() && !entry.is_matched);
            *entry = Entry { correlation, is_matched: false, scope };
        }
    }

    /// The scope of the call that launched something. A graph launch is asked for once a node.
    pub(super) fn scope_of(&mut self, correlation: u32) -> ScopeId {
        let index = correlation as usize % Self::ENTRIES;
        match self.entries.get_mut(index) {
            Some(entry) if entry.correlation == correlation && entry.scope.is_some() => {
                entry.is_matched = true;
                entry.scope
            }
            _ => ScopeId::NONE,
        }
    }

    /// Calls in scopes whose work was not seen while they were known, since last asked. Calls that
    /// launch nothing that is recorded are among them.
    pub(super) fn take_unmatched(&mut self) -> u64 {
        std::mem::take(&mut self.unmatched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NameId;

    #[test]
    fn work_finds_its_scope_until_it_is_overwritten() {
        let scope = |number| ScopeId::new(NameId(1), number);
        let mut known = Correlations::default();
        assert_eq!(known.scope_of(0), ScopeId::NONE);
        assert!(known.entries.is_empty());
        known.learn(7, scope(1));
        known.learn(8, scope(2));
        assert_eq!((known.scope_of(7), known.scope_of(7)), (scope(1), scope(1)));
        assert_eq!(known.scope_of(9), ScopeId::NONE);
        let far = Correlations::ENTRIES as u32;
        known.learn(7 + far, scope(3));
        assert_eq!((known.scope_of(7), known.take_unmatched()), (ScopeId::NONE, 0));
        known.learn(8 + far, scope(4));
        assert_eq!((known.scope_of(8 + far), known.take_unmatched()), (scope(4), 1));
    }
}
