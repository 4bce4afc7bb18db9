//! Memory that graphs allocate and free when they run.
//!
//! An allocation node has its address from when it is made. Each device has one store for all its
//! graphs: a launch makes it grow to what is in use and what the graph needs at once, in whole
//! pages, and only a trim makes it smaller. Frees inside a graph take effect in the order of its
//! nodes; launches are taken to run one after the other.

use crate::abi::{Code, Done};
use crate::books::Family;
use crate::world::World;
use crate::world::memory::Alloc;
use std::collections::BTreeMap;

/// Graph allocations are rounded to this, as those of pools.
const ALIGN: u64 = 512;

/// What graphs have allocated on one device.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GraphStore {
    pub(crate) used: u64,
    pub(crate) used_high: u64,
    pub(crate) reserved: u64,
    pub(crate) reserved_high: u64,
}

/// An allocation node's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GraphAlloc {
    pub(crate) device: usize,
    bytes: u64,
    span: u64,
    /// The graph whose node allocates it.
    graph: u64,
    /// Graphs and executables that have that node.
    holders: u32,
    /// The graph that frees it.
    freed_by: Option<u64>,
    is_live: bool,
}

/// What a memory node does, to the allocation at an address.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Take(u64),
    Give(u64),
}

/// The allocations of all graphs, by address.
pub(crate) type GraphAllocs = BTreeMap<u64, GraphAlloc>;

impl World {
    /// An address for an allocation node of `graph`.
    pub(crate) fn graph_address(&mut self, graph: u64, device: usize, bytes: u64) -> Done<u64> {
        if bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let span = bytes.checked_next_multiple_of(ALIGN).ok_or(Code::OUT_OF_MEMORY)?;
        let address = self.addresses.take(span, ALIGN)?;
        let (holders, freed_by, is_live) = (1, None, false);
        let alloc = GraphAlloc { device, bytes, span, graph, holders, freed_by, is_live };
        self.graph_allocs.insert(address, alloc);
        Ok(address)
    }

    /// Notes that a node of `graph` frees the allocation at `address`: once in the graph that
    /// allocates it, or in others.
    pub(crate) fn graph_free_at(&mut self, graph: u64, address: u64) -> Done {
        let alloc = self.graph_allocs.get_mut(&address).ok_or(Code::INVALID_VALUE)?;
        let is_own = alloc.graph == graph;
        match alloc.freed_by {
            Some(by) if is_own || by == alloc.graph => Err(Code::INVALID_VALUE),
            _ => {
                alloc.freed_by = Some(graph);
                Ok(())
            }
        }
    }

    /// The allocation node's memory around an address.
    pub(crate) fn graph_alloc_around(&self, address: u64) -> Option<&GraphAlloc> {
        let (base, alloc) = self.graph_allocs.range(..=address).next_back()?;
        (address - base < alloc.bytes).then_some(alloc)
    }

    /// Whether a call outside of graphs may free it: not what its own graph frees.
    pub(super) fn is_freed_in_its_graph(&self, address: u64) -> bool {
        let alloc = self.graph_allocs.get(&address);
        alloc.is_some_and(|alloc| alloc.freed_by == Some(alloc.graph))
    }

    /// One more graph or executable has the node.
    pub(super) fn hold_graph_memory(&mut self, steps: &[Step]) {
        for step in steps {
            if let Step::Take(address) = step
                && let Some(alloc) = self.graph_allocs.get_mut(address)
            {
                alloc.holders += 1;
            }
        }
    }

    /// One fewer.
    pub(super) fn drop_graph_memory(&mut self, steps: &[Step]) {
        for step in steps {
            if let Step::Take(address) = step
                && let Some(alloc) = self.graph_allocs.get_mut(address)
            {
                alloc.holders -= 1;
                self.forget_graph_address(*address);
            }
        }
    }

    /// Gives an address back that no node has and nothing is at.
    fn forget_graph_address(&mut self, address: u64) {
        let Some(alloc) = self.graph_allocs.get(&address) else { return };
        if alloc.holders == 0 && !alloc.is_live {
            self.addresses.give(address, alloc.span, ALIGN);
            self.graph_allocs.remove(&address);
        }
    }

    /// Makes room for a run of `steps`. Refuses what is allocated still (unless a launch frees it
    /// first), and frees of what is not.
    pub(super) fn prepare_graph_memory(&mut self, steps: &[Step], auto_free: bool) -> Done {
        let is_live =
            |address: &u64| self.graph_allocs.get(address).is_some_and(|alloc| alloc.is_live);
        let left = steps.iter().filter_map(|step| match step {
            Step::Take(address) if is_live(address) => Some(*address),
            _ => None,
        });
        let left: Vec<u64> = left.collect();
        if !left.is_empty() && !auto_free {
            return Err(Code::INVALID_VALUE);
        }
        let is_taken = |address: &u64| {
            steps.iter().any(|step| matches!(step, Step::Take(taken) if taken == address))
        };
        let frees = steps.iter().filter_map(|step| match step {
            Step::Give(address) => Some(address),
            Step::Take(_) => None,
        });
        if !frees.clone().all(|address| is_live(address) || is_taken(address)) {
            return Err(Code::INVALID_VALUE);
        }
        for address in left {
            self.release(address)?;
        }
        for device in 0..self.devices.len() {
            self.grow_graph_store(device, steps)?;
        }
        Ok(())
    }

    /// Makes a device's store as large as a run of `steps` needs it.
    fn grow_graph_store(&mut self, device: usize, steps: &[Step]) -> Done {
        let (mut live, mut peak) = (0_i64, 0_i64);
        for step in steps {
            let (address, sign) = match step {
                Step::Take(address) => (address, 1),
                Step::Give(address) => (address, -1),
            };
            let alloc = self.graph_allocs.get(address).filter(|alloc| alloc.device == device);
            live += sign * alloc.map_or(0, |alloc| alloc.span.cast_signed());
            peak = peak.max(live);
        }
        let store = self.devices[device].graph_store;
        let needed = store.used.saturating_add_signed(peak);
        let needed = self.devices[device].pages(needed).ok_or(Code::OUT_OF_MEMORY)?;
        let Some(missing) = needed.checked_sub(store.reserved).filter(|bytes| *bytes > 0) else {
            return Ok(());
        };
        self.take_physical(device, missing)?;
        let store = &mut self.devices[device].graph_store;
        store.reserved = needed;
        store.reserved_high = store.reserved_high.max(needed);
        self.books.graph_reserved(device, missing.cast_signed());
        Ok(())
    }

    /// Carries out a memory node. The launch has made sure that it can.
    pub(crate) fn run_graph_step(&mut self, step: Step) -> Done {
        match step {
            Step::Take(address) => self.take_graph_memory(address),
            Step::Give(address) => self.release(address),
        }
    }

    /// Takes back what a launch that failed had done.
    pub(super) fn undo_graph_step(&mut self, step: Step) {
        let _ = match step {
            Step::Take(address) => self.release(address),
            Step::Give(address) => self.take_graph_memory(address),
        };
    }

    fn take_graph_memory(&mut self, address: u64) -> Done {
        // A launch needs no current context, only its stream's.
        let context = self.current().unwrap_or(0);
        let id = self.buffer_id();
        let node = self.graph_allocs.get_mut(&address).ok_or(Code::INVALID_VALUE)?;
        node.is_live = true;
        let (device, span, requested) = (node.device, node.span, node.bytes);
        let (family, align, small, pool) = (Family::GraphUsed, ALIGN, false, 0);
        let alloc = Alloc { id, device, context, family, requested, span, align, small, pool };
        self.allocs.insert(address, alloc);
        let store = &mut self.devices[device].graph_store;
        store.used += span;
        store.used_high = store.used_high.max(store.used);
        self.count_requested(device, family, requested);
        Ok(())
    }

    /// What happens to a graph's allocation when it is freed, wherever that is.
    pub(super) fn give_graph_memory(&mut self, address: u64, alloc: &Alloc) {
        let store = &mut self.devices[alloc.device].graph_store;
        store.used = store.used.saturating_sub(alloc.span);
        if let Some(node) = self.graph_allocs.get_mut(&address) {
            node.is_live = false;
        }
        self.forget_graph_address(address);
    }

    /// `cuDeviceGraphMemTrim`.
    pub(crate) fn trim_graph_store(&mut self, device: usize) {
        let store = self.devices[device].graph_store;
        let floor = self.devices[device].pages(store.used).unwrap_or(store.reserved);
        let surplus = store.reserved.saturating_sub(floor);
        self.devices[device].graph_store.reserved -= surplus;
        self.give_physical(device, surplus);
        self.books.graph_reserved(device, -surplus.cast_signed());
    }
}
