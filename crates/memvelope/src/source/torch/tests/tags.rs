//! Tags of blocks: by what came to be in use within a scope.

use super::*;
use crate::event::Tag;

/// What a program does, with its scopes.
struct Program {
    allocator: Allocator,
    tagged: TaggedBlocks,
}

impl Program {
    fn new() -> Self {
        Self { allocator: Allocator::default(), tagged: TaggedBlocks::default() }
    }

    fn look(&mut self) -> (Framework, Vec<LiveBlock>) {
        let mut builder = Builder::new(DeviceIndex(0)).with_tags(&self.tagged).with_live();
        feed(&mut builder, &self.allocator.snapshot()).expect("it holds together");
        let reading = builder.finish().expect("it adds up");
        self.tagged.forget(&reading.gone);
        (reading.framework, reading.live)
    }

    fn begin(&mut self) -> TagScope {
        TaggedBlocks::begin(self.look().1)
    }

    fn end(&mut self, scope: &TagScope, tag: Tag) -> u64 {
        let live = self.look().1;
        self.tagged.end(scope, live, tag)
    }

    fn allocate(&mut self, bytes: u64) -> u64 {
        self.allocator.allocate(bytes, (0, 0), 0)
    }

    fn check(&mut self, weights: u64, kv: u64, untagged: u64) {
        let (framework, _) = self.look();
        let of = |tag: Tag| framework.by_tag[tag as usize].0;
        let found = (of(Tag::Weights), of(Tag::KvCache), of(Tag::Untagged));
        assert_eq!(found, (weights, kv, untagged));
        let spaces = framework.spaces.iter().map(|space| space.untagged_bytes.0);
        assert_eq!(spaces.sum::<u64>(), untagged);
    }
}

#[test]
fn blocks_of_a_scope_have_its_tag_until_they_are_freed() {
    let mut program = Program::new();
    let before = program.allocate(1000);
    let scope = program.begin();
    let inside = program.allocate(2000);
    program.allocate(3 * MIB);
    assert_eq!(program.end(&scope, Tag::Weights), 2);
    program.allocate(500);
    program.check(2000 + 3 * MIB, 0, 1500);

    program.allocator.free(inside, false);
    program.check(3 * MIB, 0, 1500);
    assert_eq!(program.tagged.len(), 1);
    // The same address for something else.
    assert_eq!(program.allocate(2000), inside);
    program.check(3 * MIB, 0, 3500);

    program.allocator.free(before, true);
    program.check(3 * MIB, 0, 2500);
}

#[test]
fn the_innermost_scope_holds() {
    let mut program = Program::new();
    let outer = program.begin();
    program.allocate(1 << 10);
    let inner = program.begin();
    let kv = program.allocate(1 << 12);
    let gone = program.allocate(1 << 13);
    assert_eq!(program.end(&inner, Tag::KvCache), 2);
    program.allocate(1 << 11);
    program.allocator.free(gone, false);
    assert_eq!(program.allocate(5000), gone);
    assert_eq!(program.end(&outer, Tag::Weights), 3);
    program.check((1 << 10) + (1 << 11) + 5000, 1 << 12, 0);

    // Tagged once, and again by a scope that began later: the block must be new for that.
    let later = program.begin();
    assert_eq!(program.end(&later, Tag::Weights), 0);
    program.check((1 << 10) + (1 << 11) + 5000, 1 << 12, 0);
    program.allocator.free(kv, false);
    program.check((1 << 10) + (1 << 11) + 5000, 0, 0);
}

#[test]
fn blocks_with_a_tag_are_bounded_and_the_rest_counted() {
    let block = |address| LiveBlock { address, requested_bytes: 512 };
    let scope = TaggedBlocks::begin(Vec::new());
    let mut tagged = TaggedBlocks::default();
    let live: Vec<_> = (0..TaggedBlocks::MAX as u64 + 5).map(|at| block(at * 512)).collect();
    assert_eq!(tagged.end(&scope, live, Tag::Weights), TaggedBlocks::MAX as u64);
    assert_eq!((tagged.len(), tagged.refused()), (TaggedBlocks::MAX, 5));
    let reading = Builder::new(DeviceIndex(0)).with_tags(&tagged).finish().expect("empty");
    assert!(reading.framework.notes[0].contains("5 blocks got no tag"));
    tagged.forget(&reading.gone);
    assert!(tagged.is_empty());
}

#[test]
fn what_was_tagged_since_a_reading_began_is_not_forgotten() {
    let mut program = Program::new();
    let scope = program.begin();
    let address = program.allocate(512);
    program.end(&scope, Tag::Weights);
    // A slow reading, of a moment at which the block was gone …
    let copy = program.tagged.clone();
    let slow = Builder::new(DeviceIndex(0)).with_tags(&copy).finish().expect("empty");
    // … while another scope tags what came there since.
    program.allocator.free(address, false);
    let scope = program.begin();
    assert_eq!(program.allocate(512), address);
    program.end(&scope, Tag::KvCache);
    program.tagged.forget(&slow.gone);
    program.check(0, 512, 0);
}
