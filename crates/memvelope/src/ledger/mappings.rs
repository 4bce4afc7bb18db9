//! Mappings by address: a treap whose nodes are the entries themselves, so that it needs no memory
//! of its own and any range is found in logarithmic time, whatever else is in the table.
//!
//! A mapping has no context and no references: these two fields are its children. Priorities are
//! the addresses, scrambled; nothing in a process can choose them to be in order.

use super::table::{Entry, NOWHERE, Slot, Space, Table};

fn priority(address: u64) -> u64 {
    (address ^ (address >> 21)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

/// Enters a mapping of `parent`; `None` when the table is full.
pub(super) fn insert(table: &mut Table, address: u64, bytes: u64, parent: Slot) -> Option<Slot> {
    let mut entry = Entry::new(Space::Mapping, address, bytes);
    (entry.link, entry.context, entry.references) = (parent, NOWHERE, NOWHERE);
    let slot = table.store(entry)?;
    let (left, right) = split(table, table.root, address);
    let root = merge(table, left, slot);
    table.root = merge(table, root, right);
    table.mappings += 1;
    Some(slot)
}

/// Takes a mapping out; its slot is given back.
pub(super) fn remove(table: &mut Table, slot: Slot) {
    let Some(address) = table.get(slot).map(|entry| entry.address) else { return };
    // A range of mappings never overlaps another: this one is all between its address and the next.
    let (left, rest) = split(table, table.root, address);
    let (_, right) = split(table, rest, address.saturating_add(1));
    table.root = merge(table, left, right);
    table.mappings = table.mappings.saturating_sub(1);
    table.release(slot);
}

/// The mapping with the lowest address at or above `from`.
pub(super) fn first_from(table: &Table, from: u64) -> Option<Slot> {
    let (mut at, mut best) = (table.root, None);
    while let Some(entry) = table.at(at).filter(|_| at != NOWHERE) {
        if entry.address >= from {
            best = Some(at);
            at = entry.context;
        } else {
            at = entry.references;
        }
    }
    best
}

/// The mapping that holds `address`.
pub(super) fn holding(table: &Table, address: u64) -> Option<Slot> {
    let (mut at, mut best) = (table.root, None);
    while let Some(entry) = table.at(at).filter(|_| at != NOWHERE) {
        if entry.address <= address {
            best = Some(at);
            at = entry.references;
        } else {
            at = entry.context;
        }
    }
    best.filter(|slot| table.at(*slot).is_some_and(|it| address - it.address < it.bytes))
}

/// The first mapping that has a byte in `from..to`.
pub(super) fn first_in(table: &Table, from: u64, to: u64) -> Option<Slot> {
    let found = holding(table, from).or_else(|| first_from(table, from))?;
    table.at(found).filter(|entry| entry.address < to).map(|_| found)
}

/// Parts a tree into what lies below `address` and the rest. Recursion is as deep as the tree,
/// whose expected depth is twice the logarithm of its size.
fn split(table: &mut Table, at: Slot, address: u64) -> (Slot, Slot) {
    let Some(entry) = table.at(at).filter(|_| at != NOWHERE).copied() else {
        return (NOWHERE, NOWHERE);
    };
    if entry.address < address {
        let (left, right) = split(table, entry.references, address);
        if let Some(entry) = table.get_mut(at) {
            entry.references = left;
        }
        (at, right)
    } else {
        let (left, right) = split(table, entry.context, address);
        if let Some(entry) = table.get_mut(at) {
            entry.context = right;
        }
        (left, at)
    }
}

/// Joins two trees; every address of `left` is below every one of `right`.
fn merge(table: &mut Table, left: Slot, right: Slot) -> Slot {
    let Some(low) = table.at(left).filter(|_| left != NOWHERE).copied() else { return right };
    let Some(high) = table.at(right).filter(|_| right != NOWHERE).copied() else { return left };
    if priority(low.address) >= priority(high.address) {
        let merged = merge(table, low.references, right);
        if let Some(entry) = table.get_mut(left) {
            entry.references = merged;
        }
        left
    } else {
        let merged = merge(table, left, high.context);
        if let Some(entry) = table.get_mut(right) {
            entry.context = merged;
        }
        right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn ranges_are_found_as_in_a_sorted_map(steps in proptest::collection::vec((0..64u64, any::<bool>()), 1..200)) {
            let mut table = Table::new(256);
            let mut model = BTreeMap::new();
            for (place, is_insert) in steps {
                let address = 0x1000 + (place << 21);
                match model.get(&address) {
                    None if is_insert => {
                        let slot = insert(&mut table, address, 1 << 21, 7).expect("room");
                        model.insert(address, slot);
                    }
                    Some(slot) if !is_insert => {
                        remove(&mut table, *slot);
                        model.remove(&address);
                    }
                    _ => {}
                }
                prop_assert_eq!(table.mappings, model.len());
                for probe in (0..66).map(|place| 0x1000 + (place << 21) - 5) {
                    let expected = model.range(probe..).next().map(|(_, slot)| *slot);
                    prop_assert_eq!(first_from(&table, probe), expected);
                    let below = model.range(..=probe).next_back();
                    let expected = below.filter(|(at, _)| probe - **at < 1 << 21);
                    prop_assert_eq!(holding(&table, probe), expected.map(|(_, slot)| *slot));
                }
            }
        }
    }

    #[test]
    fn neighbours_in_order_do_not_make_a_list() {
        let mut table = Table::new(1 << 16);
        for i in 0..1u64 << 16 {
            insert(&mut table, i << 21, 1 << 21, 0).expect("room");
        }
        fn depth(table: &Table, at: Slot) -> usize {
            let Some(entry) = table.at(at).filter(|_| at != NOWHERE) else { return 0 };
            1 + depth(table, entry.context).max(depth(table, entry.references))
        }
        let depth = depth(&table, table.root);
        assert!(depth < 80, "{depth}");
    }
}
