//! A small caching allocator, block by block, that behaves as PyTorch's: written from what that one
//! does, without the code under test. Its picture is computed by looking at every block.

use super::*;
use std::collections::BTreeMap;

pub(super) const KIB: u64 = 1 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unmapped,
    Free,
    /// Requested bytes.
    Used(u64),
    Awaiting,
}

#[derive(Clone, Debug)]
struct Block {
    id: u64,
    bytes: u64,
    state: State,
}

#[derive(Clone, Debug)]
struct Slab {
    pool: (u64, u64),
    stream: u64,
    is_small: bool,
    is_expandable: bool,
    page: u64,
    blocks: Vec<Block>,
}

impl Slab {
    fn is_of(&self, pool: (u64, u64), stream: u64, is_small: bool) -> bool {
        (self.pool, self.stream, self.is_small) == (pool, stream, is_small)
    }

    fn mapped(&self) -> u64 {
        let mapped = self.blocks.iter().filter(|block| block.state != State::Unmapped);
        mapped.map(|block| block.bytes).sum()
    }

    /// The first block of the first run of free and unmapped ones that is wide enough.
    fn hole(&self, size: u64) -> Option<usize> {
        let is_open = |state| matches!(state, State::Free | State::Unmapped);
        let blocks = &self.blocks;
        (0..blocks.len()).filter(|i| blocks[*i].state == State::Unmapped).find_map(|i| {
            let first = if i > 0 && blocks[i - 1].state == State::Free { i - 1 } else { i };
            let run = blocks[first..].iter().take_while(|block| is_open(block.state));
            (run.map(|block| block.bytes).sum::<u64>() >= size).then_some(first)
        })
    }

    /// All runs with a hole in them, but for the one at the end.
    fn holes(&self) -> u64 {
        let is_used = |block: &Block| matches!(block.state, State::Used(_) | State::Awaiting);
        let mut runs: Vec<_> = self.blocks.split(is_used).collect();
        runs.pop();
        let has_hole = |run: &&[Block]| run.iter().any(|block| block.state == State::Unmapped);
        let widths = runs.into_iter().filter(has_hole);
        widths.flatten().map(|block| block.bytes).sum()
    }

    /// Joins free neighbours, and unmapped ones.
    fn join(&mut self) {
        let joins = |a: State, b: State| a == b && matches!(a, State::Free | State::Unmapped);
        let mut joined: Vec<Block> = Vec::new();
        for block in self.blocks.drain(..) {
            match joined.last_mut() {
                Some(last) if joins(last.state, block.state) => last.bytes += block.bytes,
                _ => joined.push(block),
            }
        }
        self.blocks = joined;
    }

    /// Whole pages inside of runs of blocks for which `is_free` holds.
    fn free_pages(&self, is_free: impl Fn(State) -> bool) -> u64 {
        let (mut at, mut start, mut pages) = (0, None, 0);
        let end = Block { id: 0, bytes: 0, state: State::Used(0) };
        for block in self.blocks.iter().chain([&end]) {
            if is_free(block.state) {
                start.get_or_insert(at);
            } else if let Some(start) = start.take() {
                pages += (at / self.page).saturating_sub(u64::div_ceil(start, self.page));
            }
            at += block.bytes;
        }
        pages * self.page
    }
}

#[derive(Clone, Debug)]
pub(super) struct Toy {
    pub(super) free: u64,
    pub(super) total: u64,
    pub(super) settings: Settings,
    slabs: Vec<Slab>,
    next: u64,
}

impl Toy {
    pub(super) fn new(total: u64, settings: Settings) -> Self {
        Self { free: total, total, settings, slabs: Vec::new(), next: 1 }
    }

    fn reserved(&self) -> u64 {
        self.slabs.iter().map(Slab::mapped).sum()
    }

    fn is_expandable(&self) -> bool {
        self.settings.expandable_segments == Some(true)
    }

    fn max_split(&self) -> u64 {
        self.settings.max_split_size.map_or(u64::MAX, |bytes| bytes.0)
    }

    fn large(&self) -> u64 {
        self.settings.large_segment_bytes.map_or(20 * MIB, |bytes| bytes.0)
    }

    /// Blocks in use.
    pub(super) fn used(&self) -> Vec<u64> {
        let blocks = self.slabs.iter().flat_map(|slab| &slab.blocks);
        blocks.filter(|b| matches!(b.state, State::Used(_))).map(|block| block.id).collect()
    }

    /// Whether something is mapped behind something that is not.
    pub(super) fn has_hole(&self) -> bool {
        let is_hole = |slab: &Slab| {
            let last = slab.blocks.len() - 1;
            slab.blocks.iter().take(last).any(|block| block.state == State::Unmapped)
        };
        self.slabs.iter().any(is_hole)
    }

    fn set(&mut self, id: u64, state: State) {
        for slab in &mut self.slabs {
            if let Some(block) = slab.blocks.iter_mut().find(|block| block.id == id) {
                block.state = state;
                slab.join();
                return;
            }
        }
        panic!("no block {id}");
    }

    pub(super) fn release(&mut self, id: u64) {
        self.set(id, State::Free);
    }

    pub(super) fn release_later(&mut self, id: u64) {
        self.set(id, State::Awaiting);
    }

    /// Every stream has come to its end.
    pub(super) fn settle(&mut self) {
        for slab in &mut self.slabs {
            for block in slab.blocks.iter_mut().filter(|block| block.state == State::Awaiting) {
                block.state = State::Free;
            }
            slab.join();
        }
    }

    /// `empty_cache()`.
    pub(super) fn empty(&mut self) {
        self.settle();
        let mut given_back = 0;
        for slab in self.slabs.iter_mut().filter(|slab| slab.pool == (0, 0)) {
            if !slab.is_expandable {
                if slab.blocks.iter().all(|block| block.state == State::Free) {
                    given_back += slab.blocks.drain(..).map(|block| block.bytes).sum::<u64>();
                }
                continue;
            }
            let (mut at, mut blocks) = (0, Vec::new());
            for block in slab.blocks.drain(..) {
                let (start, end) = (at, at + block.bytes);
                at = end;
                let first = start.next_multiple_of(slab.page);
                let last = end - end % slab.page;
                if block.state != State::Free || first >= last {
                    blocks.push(block);
                    continue;
                }
                given_back += last - first;
                let piece = |bytes, state| Block { id: block.id, bytes, state };
                blocks.push(piece(first - start, State::Free));
                blocks.push(piece(last - first, State::Unmapped));
                blocks.push(piece(end - last, State::Free));
            }
            blocks.retain(|block| block.bytes > 0);
            slab.blocks = blocks;
            slab.join();
            if slab.mapped() == 0 {
                slab.blocks.clear();
            }
        }
        self.slabs.retain(|slab| !slab.blocks.is_empty());
        self.free += given_back;
    }

    /// A block for a request, or none: as `malloc` does.
    pub(super) fn request(&mut self, stream: u64, pool: (u64, u64), bytes: u64) -> Option<u64> {
        let size = bytes.next_multiple_of(512);
        let is_small = size <= MIB;
        let key = (pool, stream, is_small);
        let found = self.find(key, size).or_else(|| self.grow(key, size));
        let found = found.or_else(|| {
            // Not while a graph is captured.
            (pool == (0, 0)).then(|| self.empty())?;
            self.grow(key, size)
        })?;
        Some(self.take(found, size, bytes))
    }

    /// The free block that is taken: slab and place.
    fn find(&self, key: ((u64, u64), u64, bool), size: u64) -> Option<(usize, usize)> {
        let mut fitting = Vec::new();
        for (at, slab) in
            self.slabs.iter().enumerate().filter(|(_, s)| s.is_of(key.0, key.1, key.2))
        {
            for (place, block) in slab.blocks.iter().enumerate() {
                if block.state == State::Free && block.bytes >= size {
                    fitting.push((block.bytes, at, place));
                }
            }
        }
        fitting.sort_unstable();
        let is_expandable = |found: &(u64, usize, usize)| self.slabs[found.1].is_expandable;
        // What it can grow to.
        let reach = |found: &(u64, usize, usize)| {
            let next = self.slabs[found.1].blocks.get(found.2 + 1);
            found.0 + next.filter(|b| b.state == State::Unmapped).map_or(0, |b| b.bytes)
        };
        let mut at = 0;
        if is_expandable(fitting.first()?) {
            if self.is_expandable() {
                while is_expandable(&fitting[at])
                    && fitting.get(at + 1).is_some_and(|next| reach(next) < reach(&fitting[at]))
                {
                    at += 1;
                }
            } else {
                at = fitting.iter().position(|found| !is_expandable(found))?;
            }
        }
        let (bytes, slab, place) = fitting[at];
        let split = self.max_split();
        let is_forbidden = size < split && bytes >= split
            || size >= split && bytes >= size.saturating_add(20 * MIB);
        (!is_forbidden).then_some((slab, place))
    }

    fn grow(&mut self, key: ((u64, u64), u64, bool), size: u64) -> Option<(usize, usize)> {
        let segment = match () {
            () if key.2 => 2 * MIB,
            () if size < 10 * MIB => self.large(),
            () => size.next_multiple_of(2 * MIB),
        };
        if self.settings.limit_bytes.is_some_and(|limit| self.reserved() + segment > limit.0) {
            return None;
        }
        if self.is_expandable() {
            return self.map(key, size);
        }
        let taken = segment.next_multiple_of(2 * MIB);
        if taken > self.free {
            return None;
        }
        self.free -= taken;
        self.slabs.push(Slab {
            pool: key.0,
            stream: key.1,
            is_small: key.2,
            is_expandable: false,
            page: 2 * MIB,
            blocks: vec![Block { id: 0, bytes: segment, state: State::Free }],
        });
        Some((self.slabs.len() - 1, 0))
    }

    /// Maps pages into an expandable segment: into the first hole that is wide enough together with
    /// what is free around it, be it the hole at its end, else into a new one.
    fn map(&mut self, key: ((u64, u64), u64, bool), size: u64) -> Option<(usize, usize)> {
        let page = if key.2 { 2 * MIB } else { self.large() };
        let is_mine = |slab: &Slab| slab.is_expandable && slab.is_of(key.0, key.1, key.2);
        let mine = self.slabs.iter().enumerate().filter(|(_, slab)| is_mine(slab));
        let open = mine.filter_map(|(at, slab)| Some((at, slab.hole(size)?))).next();
        let (at, first) = open.unwrap_or_else(|| {
            let bytes = (self.total * 9 / 8).next_multiple_of(page);
            self.slabs.push(Slab {
                pool: key.0,
                stream: key.1,
                is_small: key.2,
                is_expandable: true,
                page,
                blocks: vec![Block { id: 0, bytes, state: State::Unmapped }],
            });
            (self.slabs.len() - 1, 0)
        });
        if size > self.total {
            self.slabs.retain(|slab| slab.mapped() > 0);
            return None;
        }
        let mut has = 0;
        while has < size {
            let slab = &mut self.slabs[at];
            let place = if has == 0 { first } else { first + 1 };
            let block = slab.blocks[place].clone();
            if block.state == State::Free {
                has += block.bytes;
                continue;
            }
            let mapped = (size - has).min(block.bytes).next_multiple_of(page);
            if mapped > self.free {
                self.slabs.retain(|slab| slab.mapped() > 0);
                return None;
            }
            self.free -= mapped;
            slab.blocks[place] = Block { id: 0, bytes: mapped, state: State::Free };
            if mapped < block.bytes {
                let rest = Block { bytes: block.bytes - mapped, ..block };
                slab.blocks.insert(place + 1, rest);
            }
            slab.join();
            has = slab.blocks[first].bytes;
        }
        Some((at, first))
    }

    fn take(&mut self, (at, place): (usize, usize), size: u64, bytes: u64) -> u64 {
        let (split, is_expandable) = (self.max_split(), self.is_expandable());
        let id = self.next;
        self.next += 1;
        let slab = &mut self.slabs[at];
        let rest = slab.blocks[place].bytes - size;
        let is_split =
            if slab.is_small || is_expandable { rest >= 512 } else { size < split && rest > MIB };
        let block = &mut slab.blocks[place];
        (block.id, block.state) = (id, State::Used(bytes));
        if is_split {
            block.bytes = size;
            slab.blocks.insert(place + 1, Block { id: 0, bytes: rest, state: State::Free });
        }
        id
    }

    /// What memvelope is told.
    pub(super) fn epoch(&self) -> Epoch {
        let mut framework = Framework { settings: self.settings, ..Framework::default() };
        let mut spaces: BTreeMap<_, Space> = BTreeMap::new();
        let mut with_awaiting = 0;
        for slab in &self.slabs {
            let key = (slab.pool, slab.stream, slab.is_small, slab.is_expandable);
            let space = spaces.entry(key).or_default();
            (space.pool, space.stream) = (slab.pool, slab.stream);
            space.class = if slab.is_small { SizeClass::Small } else { SizeClass::Large };
            self.add(slab, space, &mut framework);
            let is_free = |state| matches!(state, State::Free | State::Awaiting);
            with_awaiting += releasable(slab, is_free);
        }
        framework.spaces = spaces.into_values().collect();
        let sum = |of: fn(&Space) -> Bytes| framework.spaces.iter().map(of).sum::<Bytes>();
        framework.releasable_bytes = sum(|space| space.releasable_bytes);
        framework.awaiting_releasable_bytes =
            Bytes(with_awaiting).saturating_sub(framework.releasable_bytes);
        framework.active_bytes = sum(|space| space.active_bytes);
        framework.reserved_bytes = sum(|space| space.reserved_bytes);
        framework.requested_bytes = sum(|space| space.requested_bytes);
        Epoch {
            total_bytes: Bytes(self.total),
            free_bytes: Bytes(self.free),
            framework: Some(framework),
            ..Epoch::default()
        }
    }

    fn add(&self, slab: &Slab, space: &mut Space, framework: &mut Framework) {
        space.reserved_bytes.0 += slab.mapped();
        space.is_expandable |= slab.is_expandable;
        space.releasable_bytes.0 += releasable(slab, |state| state == State::Free);
        for block in &slab.blocks {
            match block.state {
                State::Unmapped => {}
                State::Awaiting => space.active_bytes.0 += block.bytes,
                State::Used(bytes) => {
                    space.active_bytes.0 += block.bytes;
                    space.requested_bytes.0 += bytes;
                    framework.allocated_bytes.0 += block.bytes;
                }
                State::Free => {
                    space.free_blocks += 1;
                    space.largest_free_bytes = space.largest_free_bytes.max(Bytes(block.bytes));
                    if block.bytes >= self.max_split() {
                        space.unsplittable_free.push(Bytes(block.bytes));
                        space.unsplittable_free.sort_unstable();
                    } else {
                        let largest = &mut space.largest_splittable_free_bytes;
                        *largest = (*largest).max(Bytes(block.bytes));
                    }
                }
            }
        }
        if !slab.is_expandable {
            return;
        }
        let is_one = space.reserved_bytes.0 == slab.mapped();
        let open = slab
            .blocks
            .iter()
            .rev()
            .take_while(|block| matches!(block.state, State::Free | State::Unmapped));
        let open: Vec<_> = open.collect();
        let holes = open.iter().filter(|block| block.state == State::Unmapped).count();
        let tail = open.iter().find(|block| block.state == State::Free);
        let tail = tail.filter(|_| is_one && holes == 1);
        space.tail_free_bytes = tail.map_or(Bytes::ZERO, |block| Bytes(block.bytes));
        space.hole_bytes.0 += slab.holes();
    }
}

impl std::fmt::Display for Toy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} of {} free, {:?}", self.free, self.total, self.settings)?;
        for slab in &self.slabs {
            let class = if slab.is_small { "small" } else { "large" };
            write!(f, "{:?} {} {class} page {}:", slab.pool, slab.stream, slab.page)?;
            for block in &slab.blocks {
                write!(f, " {:?} {}", block.state, block.bytes)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn releasable(slab: &Slab, is_free: impl Fn(State) -> bool) -> u64 {
    match slab.pool {
        (0, 0) if slab.is_expandable => slab.free_pages(is_free),
        (0, 0) if slab.blocks.iter().all(|block| is_free(block.state)) => slab.mapped(),
        _ => 0,
    }
}
