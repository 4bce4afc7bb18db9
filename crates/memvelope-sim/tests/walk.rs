//! A random walk through every family of memory, against an account that is kept by hand: after
//! each stretch the simulator's books, the free bytes and the account agree.

#![expect(unsafe_code, reason = "descriptors of the test's own")]
#![allow(clippy::unwrap_used, reason = "tests end by panicking")]

mod common;

use common::{books, context, cu, in_child, mem_info};
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const MIB: u64 = 1 << 20;
const PAGE: u64 = 2 * MIB;
const SMALL: u64 = MIB;
const STEPS: u32 = 60_000;
const SHARED: [u64; 4] = [1 | 1 << 32, 1, 0, 0];

/// A reproducible stream of numbers.
struct Draws(u64);

impl Draws {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % limit
    }

    /// Takes one out at random.
    fn pick<T>(&mut self, from: &mut Vec<T>) -> Option<T> {
        if from.is_empty() {
            return None;
        }
        let at = self.below(from.len() as u64) as usize;
        Some(from.swap_remove(at))
    }
}

/// Physical memory behind handles, and what keeps it.
#[derive(Debug, Default)]
struct Memory {
    bytes: u64,
    keepers: u64,
}

/// What keeps physical memory.
#[derive(Debug)]
enum Keeper {
    Handle(u64),
    Mapping(u64, u64),
    Descriptor(OwnedFd),
    Binding(u64, u64),
}

/// The account.
#[derive(Debug, Default)]
struct Account {
    plain: Vec<(u64, u64)>,
    pooled: Vec<(u64, u64)>,
    managed: Vec<(u64, u64)>,
    pinned: Vec<(u64, u64)>,
    arrays: Vec<(u64, u64)>,
    graphs: Vec<(u64, u64, u64)>,
    memories: Vec<Memory>,
    /// With the memory's index.
    keepers: Vec<(Keeper, usize)>,
    /// Ranges that nothing is mapped at, one size each.
    ranges: BTreeMap<u64, Vec<u64>>,
    multicast: u64,
    bound_next: u64,
    failed: u64,
}

fn sum(list: &[(u64, u64)]) -> u64 {
    list.iter().map(|(_, bytes)| *bytes).sum()
}

fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE) * PAGE
}

impl Account {
    fn vmm(&self) -> u64 {
        self.memories.iter().filter(|at| at.keepers > 0).map(|at| at.bytes).sum()
    }

    /// Enters an allocation, if the call worked.
    fn enter(&mut self, code: u32, list: fn(&mut Self) -> &mut Vec<(u64, u64)>, entry: (u64, u64)) {
        match code {
            0 => list(self).push(entry),
            2 => self.failed += 1,
            code => panic!("{code}"),
        }
    }

    fn keep(&mut self, keeper: Keeper, memory: usize) {
        self.memories[memory].keepers += 1;
        self.keepers.push((keeper, memory));
    }

    fn allocate(&mut self, draws: &mut Draws) {
        let bytes = 1 + draws.below(3) * draws.below(6 * MIB);
        let (mut at, size) = (0, usize::try_from(bytes).unwrap());
        match draws.below(6) {
            0 => {
                let code = cu::cuMemAlloc_v2(&mut at, size);
                self.enter(code, |account| &mut account.plain, (at, bytes));
            }
            1 => {
                let code = cu::cuMemAllocAsync(&mut at, size, 0);
                self.enter(code, |account| &mut account.pooled, (at, bytes));
            }
            2 => {
                let code = cu::cuMemAllocManaged(&mut at, size, 1);
                self.enter(code, |account| &mut account.managed, (at, bytes));
            }
            3 => {
                let code = cu::cuMemHostAlloc(&mut at, size, 0);
                self.enter(code, |account| &mut account.pinned, (at, bytes));
            }
            4 => {
                let code = cu::cuArrayCreate_v2(&mut at, &[bytes, 0, 1 | 1 << 32]);
                self.enter(code, |account| &mut account.arrays, (at, bytes));
            }
            _ => self.launch_graph(draws, bytes, size),
        }
    }

    /// A graph that leaves one allocation and frees another.
    fn launch_graph(&mut self, draws: &mut Draws, bytes: u64, size: usize) {
        let (mut stream, mut graph, mut executable) = (0, 0, 0);
        let (mut kept, mut freed) = (0, 0);
        assert_eq!(cu::cuStreamCreate(&mut stream, 1), 0);
        assert_eq!(cu::cuStreamBeginCapture_v2(stream, 2), 0);
        assert_eq!(cu::cuMemAllocAsync(&mut kept, size, stream), 0);
        assert_eq!(cu::cuMemAllocAsync(&mut freed, size, stream), 0);
        assert_eq!(cu::cuMemFreeAsync(freed, stream), 0);
        assert_eq!(cu::cuStreamEndCapture(stream, &mut graph), 0);
        assert_eq!(cu::cuGraphInstantiateWithFlags(&mut executable, graph, 0), 0);
        match cu::cuGraphLaunch(executable, stream) {
            0 => self.graphs.push((kept, bytes, executable)),
            2 => {
                self.failed += 1;
                assert_eq!(cu::cuGraphExecDestroy(executable), 0);
            }
            code => panic!("{code}"),
        }
        assert_eq!(cu::cuGraphDestroy(graph), 0);
        assert_eq!(cu::cuStreamDestroy_v2(stream), 0);
        if draws.below(8) == 0 {
            assert_eq!(cu::cuDeviceGraphMemTrim(0), 0);
        }
    }

    fn free(&mut self, draws: &mut Draws) {
        match draws.below(6) {
            0 => {
                let freed = draws.pick(&mut self.plain);
                freed.into_iter().for_each(|at| assert_eq!(cu::cuMemFree_v2(at.0), 0));
            }
            1 => {
                let freed = draws.pick(&mut self.pooled);
                freed.into_iter().for_each(|at| assert_eq!(cu::cuMemFreeAsync(at.0, 0), 0));
            }
            2 => {
                let freed = draws.pick(&mut self.managed);
                freed.into_iter().for_each(|at| assert_eq!(cu::cuMemFree_v2(at.0), 0));
            }
            3 => {
                let freed = draws.pick(&mut self.pinned);
                freed.into_iter().for_each(|at| assert_eq!(cu::cuMemFreeHost(at.0), 0));
            }
            4 => {
                let freed = draws.pick(&mut self.arrays);
                freed.into_iter().for_each(|at| assert_eq!(cu::cuArrayDestroy(at.0), 0));
            }
            _ => {
                let Some((at, _, executable)) = draws.pick(&mut self.graphs) else { return };
                // In either order: the memory outlives what allocated it.
                let is_freed_first = draws.below(2) == 0;
                if is_freed_first {
                    assert_eq!(cu::cuMemFreeAsync(at, 0), 0);
                }
                assert_eq!(cu::cuGraphExecDestroy(executable), 0);
                if !is_freed_first {
                    assert_eq!(cu::cuMemFreeAsync(at, 0), 0);
                }
            }
        }
    }

    /// One more thing that keeps physical memory, or new memory.
    fn hold(&mut self, draws: &mut Draws) {
        let (mut new, kind) = (0, draws.below(6));
        let handles: Vec<(u64, usize)> = self
            .keepers
            .iter()
            .filter_map(|(keeper, memory)| match keeper {
                Keeper::Handle(handle) => Some((*handle, *memory)),
                _ => None,
            })
            .collect();
        if kind == 0 || handles.is_empty() {
            let bytes = PAGE * (1 + draws.below(4));
            match cu::cuMemCreate(&mut new, usize::try_from(bytes).unwrap(), &SHARED, 0) {
                0 => {
                    self.memories.push(Memory { bytes, keepers: 0 });
                    self.keep(Keeper::Handle(new), self.memories.len() - 1);
                }
                code => {
                    assert_eq!(code, 2);
                    self.failed += 1;
                }
            }
            return;
        }
        let (handle, memory) = handles[draws.below(handles.len() as u64) as usize];
        let bytes = self.memories[memory].bytes;
        let size = usize::try_from(bytes).unwrap();
        match kind {
            1 | 2 => {
                let free = self.ranges.entry(bytes).or_default().pop();
                let range = free.unwrap_or_else(|| {
                    assert_eq!(cu::cuMemAddressReserve(&mut new, size, 0, 0, 0), 0);
                    new
                });
                assert_eq!(cu::cuMemMap(range, size, 0, handle, 0), 0);
                if kind == 1 {
                    self.keep(Keeper::Mapping(range, bytes), memory);
                    return;
                }
                // A second reference by way of the address, which is all that stays.
                assert_eq!(cu::cuMemRetainAllocationHandle(&mut new, range), 0);
                assert_eq!(new, handle);
                assert_eq!(cu::cuMemUnmap(range, size), 0);
                self.ranges.entry(bytes).or_default().push(range);
                self.keep(Keeper::Handle(handle), memory);
            }
            3 => {
                let mut fd = -1;
                assert_eq!(cu::cuMemExportToShareableHandle(&mut fd, handle, 1, 0), 0);
                // SAFETY: the driver gave it away.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                self.keep(Keeper::Descriptor(fd), memory);
            }
            4 => {
                let descriptor = self.keepers.iter().find_map(|(keeper, memory)| match keeper {
                    Keeper::Descriptor(fd) => Some((fd.as_raw_fd(), *memory)),
                    _ => None,
                });
                let Some((fd, memory)) = descriptor else { return };
                let fd = u64::try_from(fd).unwrap();
                assert_eq!(cu::cuMemImportFromShareableHandle(&mut new, fd, 1), 0);
                self.keep(Keeper::Handle(new), memory);
            }
            _ => {
                let at = self.bound_next;
                let offset = usize::try_from(at).unwrap();
                let code = cu::cuMulticastBindMem(self.multicast, offset, handle, 0, size, 0);
                assert_eq!(code, 0);
                self.bound_next += bytes;
                self.keep(Keeper::Binding(at, bytes), memory);
            }
        }
    }

    fn let_go(&mut self, draws: &mut Draws) {
        let Some((keeper, memory)) = draws.pick(&mut self.keepers) else { return };
        self.memories[memory].keepers -= 1;
        let size = |bytes: u64| usize::try_from(bytes).unwrap();
        match keeper {
            Keeper::Handle(handle) => assert_eq!(cu::cuMemRelease(handle), 0),
            Keeper::Mapping(range, bytes) => {
                assert_eq!(cu::cuMemUnmap(range, size(bytes)), 0);
                self.ranges.entry(bytes).or_default().push(range);
            }
            Keeper::Descriptor(fd) => drop(fd),
            Keeper::Binding(at, bytes) => {
                let code = cu::cuMulticastUnbind(self.multicast, 0, size(at), size(bytes));
                assert_eq!(code, 0);
            }
        }
    }

    fn step(&mut self, draws: &mut Draws) {
        match draws.below(9) {
            0 | 1 => self.allocate(draws),
            2 | 3 => self.free(draws),
            4 | 5 => self.hold(draws),
            6 | 7 => self.let_go(draws),
            // The whole context must not be waited for while another thread captures.
            _ if draws.below(4) == 0 => assert_eq!(cu::cuStreamSynchronize(0), 0),
            _ => {}
        }
    }

    fn with_multicast() -> Self {
        let mut account = Self::default();
        let props = [1, 1 << 45, 1, 0];
        assert_eq!(cu::cuMulticastCreate(&mut account.multicast, &props), 0);
        assert_eq!(cu::cuMulticastAddDevice(account.multicast, 0), 0);
        account
    }
}

/// Bytes of whole pages that the accounts together take, pools and graphs aside.
fn physical(accounts: &[Account]) -> u64 {
    let plain = || accounts.iter().flat_map(|account| &account.plain).map(|(_, bytes)| *bytes);
    let small: u64 = plain().filter(|at| *at <= SMALL).map(|at| at.div_ceil(512) * 512).sum();
    let large: u64 = plain().filter(|at| *at > SMALL).map(pages).sum();
    let arrays = accounts.iter().flat_map(|account| &account.arrays);
    let arrays: u64 = arrays.map(|(_, bytes)| pages(*bytes)).sum();
    pages(small) + large + arrays + accounts.iter().map(Account::vmm).sum::<u64>()
}

/// The books and the free bytes against the accounts together.
fn compare(accounts: &[Account]) {
    let (free, total) = mem_info();
    let books = books();
    let device = &books["devices"][0];
    let of = |key: &str| device[key]["live_bytes"].as_u64().unwrap();
    let live = |family: &str| device["families"][family]["live_bytes"].as_u64().unwrap_or(0);
    let all = |part: fn(&Account) -> u64| accounts.iter().map(part).sum::<u64>();
    let graphs = all(|account| account.graphs.iter().map(|(_, bytes, _)| *bytes).sum());
    let pooled = all(|account| sum(&account.pooled));
    for (family, expected) in [
        ("device", all(|account| sum(&account.plain))),
        ("pool_used", pooled),
        ("managed", all(|account| sum(&account.managed))),
        ("pinned_host", all(|account| sum(&account.pinned))),
        ("array", all(|account| sum(&account.arrays))),
        ("graph_used", graphs),
        ("vmm", all(Account::vmm)),
    ] {
        assert_eq!(live(family), expected, "{family}");
    }
    let physical = physical(accounts) + of("pool_reserved") + of("graph_reserved");
    assert_eq!(device["physical_live_bytes"].as_u64().unwrap(), physical);
    assert_eq!(total - free, physical + (8 + 4) * MIB);
    assert!(of("pool_reserved") >= pooled && of("graph_reserved") >= graphs);
}

/// A device that is full at times.
const SCENARIO: &str = "[[devices]]\ntotal_bytes = 536870912\ncontext_bytes = 8388608\n\
    hidden_bytes = 4194304\npool_chunk_bytes = 4194304\n";

#[test]
fn books_and_free_bytes_agree_with_an_account() {
    let test = "books_and_free_bytes_agree_with_an_account";
    let Some(books) = in_child(test, SCENARIO, || {
        context();
        let (mut accounts, mut draws) = ([Account::with_multicast()], Draws(0x2545_f491));
        for step in 1..=STEPS {
            accounts[0].step(&mut draws);
            if step.is_multiple_of(100) {
                compare(&accounts);
            }
        }
        let [account] = &mut accounts;
        assert!(account.failed > 20, "the device was full at times: {}", account.failed);
        while !account.keepers.is_empty() {
            account.let_go(&mut draws);
        }
        assert_eq!(account.vmm(), 0);
        compare(&accounts);
    }) else {
        return;
    };
    assert_eq!(books["caught_panics"], serde_json::json!(0));
    assert_eq!(books["vmm_maps"], books["vmm_unmaps"]);
}

#[test]
fn threads_that_walk_at_once_leave_exact_books() {
    let test = "threads_that_walk_at_once_leave_exact_books";
    let Some(books) = in_child(test, SCENARIO, || {
        let context = context();
        let mut accounts: Vec<Account> = (0..4).map(|_| Account::with_multicast()).collect();
        let mut seeds = (1..).map(|seed| Draws(seed * 0x9e37_79b9));
        for _ in 0..10 {
            std::thread::scope(|scope| {
                for account in &mut accounts {
                    let mut draws = seeds.next().unwrap();
                    scope.spawn(move || {
                        assert_eq!(cu::cuCtxSetCurrent(context), 0);
                        (0..1000).for_each(|_| account.step(&mut draws));
                    });
                }
            });
            compare(&accounts);
        }
    }) else {
        return;
    };
    assert_eq!(books["caught_panics"], serde_json::json!(0));
}
