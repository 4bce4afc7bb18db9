//! The needs of all live leases, in order, and the one question asked of them: is there an order of
//! completion in which every lease reaches its claim?
//!
//! With one kind of resource the order to try is by need (claim - held): whoever completes gives
//! back what it holds, and the next may need that much more. So the state is safe exactly if, for
//! every lease, `need - (held by all with smaller needs) <= free`. The left side is called the
//! *due* of a lease here, and the largest due of all is what must be free.
//! (Dijkstra's banker for a single resource: EWD 123, section "The Problem of the Deadly Embrace".)
//!
//! A tree over the values of need, sixteen ways at each digit. Every node has the sum held and the
//! largest due of each child, so a change touches one path and the root answers. Leases with equal
//! needs share a place: among them only the first one's due matters, and it is the largest.
//! The height is that of the largest need ever entered in base 16 (4 for 65,535 blocks, at most 8),
//! whatever the number of leases.

/// Children of a node: with 16, a node is three cache lines and a path has at most eight of them.
const FANOUT: usize = 16;
/// Bits of a need that a level decides on.
const BITS: u32 = FANOUT.ilog2();
/// Levels that any need fits: 8 digits of 4 bits.
const HEIGHT_MAX: usize = 8;
/// Largest need and largest sum held: 2^30 - 1, so that differences of them, and of [`NOBODY`], fit
/// 32 bits with a sign.
pub(crate) const NEED_MAX: u32 = (1 << 30) - 1;
/// The due of nobody: below every real one, which is at least `-NEED_MAX`.
pub(crate) const NOBODY: i32 = -(1 << 30);
/// No node: the first one is never used.
const NONE: u32 = 0;

/// Sixteen neighbouring values of need, or sixteen subtrees.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Node {
    /// Blocks held below each child.
    held: [i32; FANOUT],
    /// Largest due below each child, as if nothing were held before the child.
    due: [i32; FANOUT],
    /// Number of the child; in the lowest level, how many leases have this need.
    link: [u32; FANOUT],
}

impl Node {
    const EMPTY: Self = Self { held: [0; FANOUT], due: [NOBODY; FANOUT], link: [NONE; FANOUT] };

    /// Sum held and largest due of the whole node.
    #[inline]
    fn total(&self) -> (i32, i32) {
        let (mut held, mut due) = (0, NOBODY);
        for (&child_held, &child_due) in self.held.iter().zip(&self.due) {
            due = due.max(child_due - held);
            held += child_held;
        }
        (held, due)
    }
}

/// The tree.
#[derive(Clone, Debug)]
pub(crate) struct Needs {
    nodes: Vec<Node>,
    /// Nodes that are empty and unlinked.
    spare: Vec<u32>,
    root: u32,
    height: usize,
    held: i32,
    due: i32,
}

impl Default for Needs {
    fn default() -> Self {
        Self {
            nodes: vec![Node::EMPTY, Node::EMPTY],
            spare: Vec::new(),
            root: 1,
            height: 1,
            held: 0,
            due: NOBODY,
        }
    }
}

/// A digit of a need: the place of its child `level` levels above the lowest.
#[inline]
const fn digit(need: u32, level: usize) -> usize {
    (need >> (BITS * level as u32)) as usize & (FANOUT - 1)
}

impl Needs {
    /// Blocks held by all.
    pub(crate) const fn held(&self) -> i32 {
        self.held
    }

    /// The largest due: the state is safe if so much is free. [`NOBODY`] without leases.
    pub(crate) const fn due(&self) -> i32 {
        self.due
    }

    /// Whether a need is beyond the height of the tree.
    const fn is_beyond(&self, need: u32) -> bool {
        self.height < HEIGHT_MAX && need >> (BITS * self.height as u32) != 0
    }

    /// A lease enters.
    pub(crate) fn insert(&mut self, need: u32, held: u32) {
        debug_assert!(need <= NEED_MAX && held <= NEED_MAX);
        while self.is_beyond(need) {
            self.raise();
        }
        self.change(need, held as i32, 1);
    }

    /// A lease leaves, as it was entered.
    pub(crate) fn remove(&mut self, need: u32, held: u32) {
        self.change(need, -(held as i32), u32::MAX); // -1
    }

    /// A lease that holds `held` draws `blocks` from its need.
    pub(crate) fn shift(&mut self, need: u32, held: u32, blocks: u32) {
        debug_assert!(blocks <= need);
        let after = need - blocks;
        if need / FANOUT as u32 == after / FANOUT as u32 {
            self.shift_near(need, held as i32, blocks);
        } else {
            self.remove(need, held);
            self.insert(after, held + blocks);
        }
    }

    /// What must be free for a lease with `need` to enter a safe state that stays safe, beside what
    /// it takes at once: the largest due up to that need, its own included. Later ones are not
    /// worse off, because what it takes from the free it holds before them.
    #[inline]
    pub(crate) fn due_up_to(&self, need: u32) -> i32 {
        if self.is_beyond(need) {
            return self.due.max(need as i32 - self.held);
        }
        let (mut before, mut due, mut node) = (0, NOBODY, self.root);
        for level in (0..self.height).rev() {
            let place = digit(need, level);
            let at = &self.nodes[node as usize];
            for (&held, &child) in at.held.iter().zip(&at.due).take(place) {
                due = due.max(child - before);
                before += held;
            }
            node = at.link[place];
            if node == NONE {
                break;
            }
        }
        due.max(need as i32 - before)
    }

    /// The smallest need of all; `None` without leases.
    pub(crate) fn smallest(&self) -> Option<u32> {
        let (mut node, mut need) = (self.root, 0);
        for _ in 0..self.height {
            let at = &self.nodes[node as usize];
            let place = at.due.iter().position(|&due| due != NOBODY)?;
            need = need << BITS | place as u32;
            node = at.link[place];
        }
        Some(need)
    }

    /// A level more, with today's tree as its first child.
    fn raise(&mut self) {
        let top = self.take();
        let at = &mut self.nodes[top as usize];
        if self.due != NOBODY {
            (at.held[0], at.due[0], at.link[0]) = (self.held, self.due, self.root);
        } else {
            self.spare.push(self.root);
        }
        self.root = top;
        self.height += 1;
    }

    fn take(&mut self) -> u32 {
        if let Some(node) = self.spare.pop() {
            return node;
        }
        self.nodes.push(Node::EMPTY);
        // Numbers fit: a node has 192 bytes, and 2^32 of them no memory.
        (self.nodes.len() - 1) as u32
    }

    /// The nodes from the root to the place of `need`, the lowest last; makes those that lack.
    #[inline]
    fn path(&mut self, need: u32) -> [u32; HEIGHT_MAX] {
        let mut path = [NONE; HEIGHT_MAX];
        let mut node = self.root;
        for level in (0..self.height).rev() {
            path[level] = node;
            if level > 0 {
                let place = digit(need, level);
                let mut next = self.nodes[node as usize].link[place];
                if next == NONE {
                    next = self.take();
                    self.nodes[node as usize].link[place] = next;
                }
                node = next;
            }
        }
        path
    }

    #[inline]
    fn change(&mut self, need: u32, held: i32, leases: u32) {
        let path = self.path(need);
        self.enter(path[0], need, held, leases);
        self.settle(&path, need);
    }

    /// Changes a place of the lowest level.
    #[inline]
    fn enter(&mut self, node: u32, need: u32, held: i32, leases: u32) {
        let (at, place) = (&mut self.nodes[node as usize], digit(need, 0));
        at.held[place] += held;
        at.link[place] = at.link[place].wrapping_add(leases);
        at.due[place] = if at.link[place] == 0 { NOBODY } else { need as i32 };
    }

    /// [`Self::shift`] within one node of the lowest level.
    #[inline]
    fn shift_near(&mut self, need: u32, held: i32, blocks: u32) {
        let path = self.path(need);
        self.enter(path[0], need, -held, u32::MAX);
        self.enter(path[0], need - blocks, held + blocks as i32, 1);
        self.settle(&path, need);
    }

    /// Brings the sums along a path up to date, and takes back what became empty.
    #[inline]
    fn settle(&mut self, path: &[u32; HEIGHT_MAX], need: u32) {
        for level in 1..self.height {
            let child = path[level - 1];
            let (held, due) = self.nodes[child as usize].total();
            let (at, place) = (&mut self.nodes[path[level] as usize], digit(need, level));
            (at.held[place], at.due[place]) = (held, due);
            if due == NOBODY {
                at.link[place] = NONE;
                self.spare.push(child);
            }
        }
        (self.held, self.due) = self.nodes[self.root as usize].total();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same from a list, sorted anew for every question.
    #[derive(Default)]
    struct Naive(Vec<(u32, u32)>);

    impl Naive {
        fn dues(&self) -> Vec<(u32, i64)> {
            let mut leases = self.0.clone();
            leases.sort_unstable();
            let mut before = 0;
            let mut dues = Vec::new();
            for (need, held) in leases {
                dues.push((need, i64::from(need) - before));
                before += i64::from(held);
            }
            dues
        }

        fn due(&self) -> i64 {
            self.dues().iter().map(|(_, due)| *due).max().unwrap_or(i64::from(NOBODY))
        }

        fn due_up_to(&self, need: u32) -> i64 {
            let before: i64 =
                self.0.iter().filter(|(n, _)| *n < need).map(|(_, held)| i64::from(*held)).sum();
            let up_to = self.dues().into_iter().filter(|(n, _)| *n <= need).map(|(_, due)| due);
            up_to.max().unwrap_or(i64::MIN).max(i64::from(need) - before)
        }
    }

    fn agree(tree: &Needs, naive: &Naive, need: u32) -> Result<(), TestCaseError> {
        prop_assert_eq!(i64::from(tree.due()), naive.due());
        prop_assert_eq!(tree.held() as u32, naive.0.iter().map(|(_, held)| held).sum::<u32>());
        prop_assert_eq!(tree.smallest(), naive.0.iter().map(|(need, _)| *need).min());
        prop_assert_eq!(i64::from(tree.due_up_to(need)), naive.due_up_to(need));
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn the_tree_and_a_sorted_list_agree(
            steps in prop::collection::vec((0u8..4, any::<u32>(), 0u32..200, 0u32..60), 1..200),
            bits in 1u32..29,
        ) {
            let (mut tree, mut naive) = (Needs::default(), Naive::default());
            for (kind, number, held, blocks) in steps {
                let need = number % (1 << bits);
                let index = number as usize % naive.0.len().max(1);
                match kind {
                    0 | 1 => {
                        tree.insert(need, held);
                        naive.0.push((need, held));
                    }
                    2 if !naive.0.is_empty() => {
                        let (need, held) = naive.0.swap_remove(index);
                        tree.remove(need, held);
                    }
                    3 if !naive.0.is_empty() => {
                        let (need, held) = naive.0[index];
                        let blocks = blocks.min(need);
                        tree.shift(need, held, blocks);
                        naive.0[index] = (need - blocks, held + blocks);
                    }
                    _ => {}
                }
                agree(&tree, &naive, need)?;
            }
            for (need, held) in std::mem::take(&mut naive.0) {
                tree.remove(need, held);
            }
            agree(&tree, &naive, 7)?;
            // Everything came back: what is not the root is spare, or the one that is never used.
            prop_assert_eq!(tree.spare.len() + 2, tree.nodes.len());
        }
    }

    #[test]
    fn the_largest_needs_and_sums_do_not_overflow() {
        let mut tree = Needs::default();
        tree.insert(NEED_MAX, 0);
        assert_eq!((tree.due(), tree.smallest()), (NEED_MAX as i32, Some(NEED_MAX)));
        tree.insert(0, NEED_MAX);
        assert_eq!(tree.due(), 0);
        assert_eq!(tree.due_up_to(NEED_MAX), 0);
        assert_eq!(tree.due_up_to(1), 1 - NEED_MAX as i32 + (NEED_MAX as i32 - 1));
        tree.remove(NEED_MAX, 0);
        tree.remove(0, NEED_MAX);
        assert_eq!((tree.held(), tree.due()), (0, NOBODY));
    }

    #[test]
    fn nodes_are_used_again() {
        let mut tree = Needs::default();
        for round in 0..3u32 {
            for need in 0..1000 {
                tree.insert(need * 97, need);
            }
            let nodes = tree.nodes.len();
            for need in 0..1000 {
                tree.remove(need * 97, need);
            }
            if round > 0 {
                assert_eq!(tree.nodes.len(), nodes);
            }
        }
    }
}
