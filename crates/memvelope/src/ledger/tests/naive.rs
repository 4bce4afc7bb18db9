//! The ledger against a naive model: plain lists, scanned; mapped addresses are kept one by one.

use super::*;
use proptest::prelude::*;

/// What the property test does; small ranges, so that numbers and tokens meet.
#[derive(Clone, Debug)]
enum Step {
    Allocate {
        address: u64,
        bytes: u64,
        device: u32,
        kind: usize,
        tag: usize,
        other: u64,
    },
    /// Enters a free and lets it return at once.
    Free {
        address: u64,
        kind: usize,
        succeeded: bool,
    },
    /// Enters a free that returns later.
    Enter {
        address: u64,
        kind: usize,
    },
    /// Returns the n-th free still open.
    Return {
        nth: usize,
        succeeded: bool,
    },
    Map {
        handle: u64,
        address: u64,
        bytes: u64,
    },
    Unmap {
        address: u64,
        bytes: u64,
    },
    Retain {
        handle: u64,
        address: u64,
    },
    Export {
        handle: u64,
        descriptor: i32,
    },
    CloseExport {
        descriptor: i32,
    },
    Import {
        handle: u64,
        descriptor: i32,
    },
    Bind {
        multicast: u64,
        handle: u64,
        address: u64,
        offset: u64,
    },
    Unbind {
        multicast: u64,
        offset: u64,
    },
    TellPool {
        device: u32,
        pool: u64,
        reserved: u64,
    },
    MakePool {
        device: u32,
        pool: u64,
    },
    EndPool {
        pool: u64,
    },
    TellGraphs {
        device: u32,
        reserved: u64,
    },
    DestroyContext {
        device: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let number = 1..12u64;
    let range = (0..20u64, 1..8u64);
    let free_kind = 0..FREE_KINDS.len();
    let memory = prop_oneof![
        8 => (number.clone(), 1..1000u64, 0..3u32, 0..AllocKind::COUNT, 0..Tag::COUNT, 1..4u64)
            .prop_map(|(address, bytes, device, kind, tag, other)| Step::Allocate {
                address, bytes, device, kind, tag, other
            }),
        6 => (number.clone(), free_kind.clone(), any::<bool>())
            .prop_map(|(address, kind, succeeded)| Step::Free { address, kind, succeeded }),
        3 => (number.clone(), free_kind).prop_map(|(address, kind)| Step::Enter { address, kind }),
        3 => (0..4usize, any::<bool>())
            .prop_map(|(nth, succeeded)| Step::Return { nth, succeeded }),
        1 => (0..3u32).prop_map(|device| Step::DestroyContext { device }),
    ];
    let vmm = prop_oneof![
        4 => (number.clone(), range.clone())
            .prop_map(|(handle, (address, bytes))| Step::Map { handle, address, bytes }),
        3 => range.prop_map(|(address, bytes)| Step::Unmap { address, bytes }),
        2 => (number.clone(), 0..28u64)
            .prop_map(|(handle, address)| Step::Retain { handle, address }),
        2 => (number.clone(), 0..4i32)
            .prop_map(|(handle, descriptor)| Step::Export { handle, descriptor }),
        2 => (0..4i32).prop_map(|descriptor| Step::CloseExport { descriptor }),
        2 => (number.clone(), 0..4i32)
            .prop_map(|(handle, descriptor)| Step::Import { handle, descriptor }),
        2 => (number.clone(), 0..12u64, 0..28u64, 0..3u64).prop_map(
            |(multicast, handle, address, offset)| Step::Bind {
                multicast, handle, address, offset
            }
        ),
        2 => (number, 0..3u64).prop_map(|(multicast, offset)| Step::Unbind { multicast, offset }),
    ];
    let reserves = prop_oneof![
        3 => (0..3u32, 1..4u64, 0..3000u64)
            .prop_map(|(device, pool, reserved)| Step::TellPool { device, pool, reserved }),
        1 => (0..3u32, 1..4u64).prop_map(|(device, pool)| Step::MakePool { device, pool }),
        1 => (1..4u64).prop_map(|pool| Step::EndPool { pool }),
        1 => (0..3u32, 0..3000u64)
            .prop_map(|(device, reserved)| Step::TellGraphs { device, reserved }),
    ];
    prop_oneof![4 => memory, 3 => vmm, 1 => reserves]
}

const FREE_KINDS: [FreeKind; 6] = [
    FreeKind::Device,
    FreeKind::PinnedHost,
    FreeKind::PoolUsed,
    FreeKind::Vmm,
    FreeKind::Registered,
    FreeKind::ImportedAddress,
];

/// An allocation of the model.
#[derive(Clone, Debug)]
struct Known {
    is_handle: bool,
    number: u64,
    bytes: u64,
    device: u32,
    kind: AllocKind,
    tag: Tag,
    library: u64,
    /// Which of the model's pools.
    pool: Option<usize>,
    references: u32,
    tokens: Vec<u64>,
    mapped: Vec<u64>,
    exports: Vec<i32>,
    /// By which of the model's allocations, and where.
    bound: Vec<(usize, u64)>,
}

impl Known {
    fn is_live(&self) -> bool {
        !self.is_export_only() && self.references + self.held() > 0 || self.is_export_only()
    }

    fn held(&self) -> u32 {
        (self.mapped.len() + self.bound.len()) as u32
    }

    fn is_export_only(&self) -> bool {
        self.references == 0 && self.held() == 0 && !self.exports.is_empty()
    }
}

#[derive(Clone, Debug)]
struct Pool {
    handle: u64,
    device: u32,
    reserved: u64,
    is_destroyed: bool,
}

#[derive(Default)]
struct Model {
    known: Vec<Known>,
    pools: Vec<Pool>,
    graphs: [u64; 3],
    unknown: Vec<u64>,
    /// Frees under way of what was never seen.
    unseen: Vec<u64>,
    graph_freed: Vec<u64>,
    peaks: [u64; 3],
    allocated: [u64; 3],
    untracked: u64,
}

impl Model {
    fn open(&self, is_handle: bool, number: u64) -> Option<usize> {
        self.known.iter().position(|known| {
            known.references > 0 && known.is_handle == is_handle && known.number == number
        })
    }

    fn mapped_at(&self, address: u64) -> Option<usize> {
        self.known.iter().position(|known| known.mapped.contains(&address))
    }

    fn is_mapped(&self, address: u64, bytes: u64) -> bool {
        (address..address + bytes).any(|at| self.mapped_at(at).is_some())
    }

    fn live(&self, keep: impl Fn(&Known) -> bool) -> (u64, u64) {
        self.known
            .iter()
            .filter(|known| known.is_live() && keep(known))
            .fold((0, 0), |(bytes, count), known| (bytes + known.bytes, count + 1))
    }

    fn pool_bytes(&self, device: u32) -> u64 {
        let pools = self.pools.iter().enumerate().filter(|(_, pool)| pool.device == device);
        let bytes = |(i, pool): (usize, &Pool)| {
            let (live, count) = self.live(|k| k.pool == Some(i));
            if pool.is_destroyed && count == 0 { 0 } else { pool.reserved.max(live) }
        };
        pools.map(bytes).sum()
    }

    fn vram(&self, device: u32) -> u64 {
        let (bytes, _) = self.live(|k| k.device == device && k.kind.counts_as_vram());
        bytes + self.pool_bytes(device) + self.graphs[device as usize]
    }

    fn note_peaks(&mut self) {
        for device in 0..3 {
            self.peaks[device as usize] = self.peaks[device as usize].max(self.vram(device));
        }
    }

    fn pool_of(&mut self, handle: u64, device: u32) -> usize {
        let known = self.pools.iter().position(|it| it.handle == handle && !it.is_destroyed);
        known.unwrap_or_else(|| {
            self.pools.push(Pool { handle, device, reserved: 0, is_destroyed: false });
            self.pools.len() - 1
        })
    }

    fn end_pool(&mut self, handle: u64) {
        for pool in self.pools.iter_mut().filter(|pool| pool.handle == handle) {
            pool.is_destroyed = true;
        }
    }

    fn allocate(&mut self, a: &Allocation) {
        let is_handle = a.kind.is_handle();
        if a.kind.counts_as_vram() {
            self.allocated[a.device.0 as usize] += a.bytes.0;
        }
        if let Some(former) = self.open(is_handle, a.address) {
            let former = &mut self.known[former];
            let is_again = a.kind == AllocKind::ImportedHandle
                || a.kind == AllocKind::ImportedAddress && former.kind == a.kind;
            if is_again {
                former.references += 1;
                return;
            }
            former.references = 0;
        }
        let pool = (a.kind == AllocKind::PoolUsed).then(|| self.pool_of(a.pool, a.device.0));
        self.known.push(Known {
            is_handle,
            number: a.address,
            bytes: a.bytes.0,
            device: pool.map_or(a.device.0, |pool| self.pools[pool].device),
            kind: a.kind,
            tag: a.tag,
            library: a.library.0.into(),
            pool,
            references: 1,
            tokens: Vec::new(),
            mapped: Vec::new(),
            exports: Vec::new(),
            bound: Vec::new(),
        });
    }

    fn enter(&mut self, is_handle: bool, number: u64, token: u64) {
        if let Some(known) = self.open(is_handle, number) {
            self.known[known].references -= 1;
            self.known[known].tokens.push(token);
            if self.known[known].kind == AllocKind::GraphNode {
                self.graph_freed.push(number);
            }
        } else if let Some(at) = self.unknown.iter().position(|it| is_handle && *it == number) {
            self.unknown.remove(at);
        } else if is_handle || !self.graph_freed.contains(&number) {
            self.unseen.push(token);
        }
    }

    fn settle_free(&mut self, token: u64, succeeded: bool) {
        if succeeded && self.unseen.contains(&token) {
            self.untracked += 1;
        }
        let Some(at) = self.known.iter().position(|k| k.tokens.contains(&token)) else { return };
        let known = &mut self.known[at];
        known.tokens.retain(|known| *known != token);
        let (is_handle, number) = (known.is_handle, known.number);
        let other = self.open(is_handle, number).filter(|other| *other != at);
        if !succeeded && (self.known[at].references > 0 || other.is_none()) {
            self.known[at].references += 1;
        }
    }

    fn retain(&mut self, handle: u64, address: u64) {
        let Some(at) = self.mapped_at(address).or_else(|| self.open(true, handle)) else {
            return self.unknown.push(handle);
        };
        if self.known[at].references > 0 {
            if self.known[at].number == handle {
                self.known[at].references += 1;
            } else {
                self.unknown.push(handle);
            }
            return;
        }
        if let Some(former) = self.open(true, handle) {
            self.known[former].references = 0;
        }
        (self.known[at].number, self.known[at].references) = (handle, 1);
    }

    fn close_export(&mut self, descriptor: i32) {
        self.known.iter_mut().for_each(|k| k.exports.retain(|known| *known != descriptor));
    }

    fn import(&mut self, handle: u64, descriptor: i32) {
        let origin = self.known.iter().position(|known| known.exports.contains(&descriptor));
        let import = self.open(true, handle).filter(|import| {
            let known = &self.known[*import];
            let is_new = known.references == 1 && known.held() == 0;
            known.kind == AllocKind::ImportedHandle && is_new
        });
        if let Some((import, origin)) = import.zip(origin)
            && import != origin
        {
            self.known[origin].bound.push((import, u64::MAX));
        }
    }

    fn bind(&mut self, multicast: u64, handle: u64, address: u64, offset: u64) {
        let memory = if handle == 0 { self.mapped_at(address) } else { self.open(true, handle) };
        let object = self.open(true, multicast).filter(|object| {
            let kind = self.known[*object].kind;
            kind == AllocKind::Multicast || kind == AllocKind::ImportedHandle
        });
        if let Some((object, memory)) = object.zip(memory) {
            self.known[memory].bound.push((object, offset));
        }
    }

    /// What is gone keeps nothing.
    fn end_bindings(&mut self) {
        loop {
            let is_gone = |k: &Known| !k.is_live() && k.tokens.is_empty();
            let gone: Vec<_> = self.known.iter().map(is_gone).collect();
            let before = self.known.iter().map(|k| k.bound.len()).sum::<usize>();
            self.known.iter_mut().for_each(|k| k.bound.retain(|(object, _)| !gone[*object]));
            if before == self.known.iter().map(|k| k.bound.len()).sum::<usize>() {
                return;
            }
        }
    }

    fn map(&mut self, handle: u64, address: u64, bytes: u64) {
        let Some(at) = self.open(true, handle) else { return };
        let known = &mut self.known[at];
        known.mapped.extend(address..address + bytes);
        if known.kind == AllocKind::ImportedHandle {
            known.bytes = known.bytes.max(bytes);
        }
    }

    fn destroy_context(&mut self, device: u32) {
        for known in &mut self.known {
            // The context of the call: a pool's device may be another one, and is then not asked.
            if known.device == device && !known.is_handle && known.pool.is_none() {
                known.references = 0;
                known.tokens.clear();
            }
        }
    }

    fn accept(&mut self, body: &Body) {
        match *body {
            Body::Allocated(a) => self.allocate(&a),
            Body::FreeEntered { address, kind, token } => {
                self.enter(kind == FreeKind::Vmm, address, token);
            }
            Body::FreeReturned { token, succeeded } => self.settle_free(token, succeeded),
            Body::Mapped { handle, address, bytes } => self.map(handle, address, bytes.0),
            Body::Unmapped { address, bytes } => {
                let range = address..address + bytes.0;
                self.known.iter_mut().for_each(|k| k.mapped.retain(|at| !range.contains(at)));
            }
            Body::Retained { handle, address } => self.retain(handle, address),
            Body::Exported { handle, descriptor } => {
                self.close_export(descriptor);
                if let Some(known) = self.open(true, handle) {
                    self.known[known].exports.push(descriptor);
                }
            }
            Body::ExportClosed { descriptor } => self.close_export(descriptor),
            Body::Imported { handle, descriptor } => self.import(handle, descriptor),
            Body::Bound { multicast, handle, address, offset, .. } => {
                self.bind(multicast, handle, address, offset);
            }
            Body::Unbound { multicast, offset, .. } => {
                if let Some(object) = self.open(true, multicast) {
                    let ends = (object, offset);
                    self.known.iter_mut().for_each(|k| k.bound.retain(|it| *it != ends));
                }
            }
            Body::Pool { device, pool, reserved, .. } => {
                let pool = self.pool_of(pool, device.0);
                self.pools[pool].reserved = reserved.0;
            }
            Body::PoolCreated { device, pool } => {
                self.end_pool(pool);
                self.pool_of(pool, device.0);
            }
            Body::PoolDestroyed { pool } => self.end_pool(pool),
            Body::GraphMemory { device, reserved, .. } => {
                self.graphs[device.0 as usize] = reserved.0;
            }
            Body::ContextDestroyed { device, .. } => self.destroy_context(device.0),
            _ => {}
        }
        self.end_bindings();
        self.note_peaks();
    }
}

/// The events of a step; mapping over what is mapped is left out, as the driver would refuse it.
fn bodies(step: &Step, model: &Model, token: &mut u64, open: &mut Vec<u64>) -> Vec<Body> {
    let device_of = DeviceIndex;
    match *step {
        Step::Allocate { address, bytes, device, kind, tag, other } => {
            let body = allocated(address, bytes, device, AllocKind::ALL[kind], Tag::ALL[tag]);
            let Body::Allocated(it) = body else { return Vec::new() };
            // A pool's bytes belong to no context: the model need not know the pool's device then.
            let pool = if it.kind == AllocKind::PoolUsed { other } else { 0 };
            let context = if pool == 0 { it.context } else { 0 };
            let library = LibraryId(other as u16);
            vec![Body::Allocated(Allocation { pool, library, context, ..it })]
        }
        Step::Free { address, kind, succeeded } => {
            *token += 1;
            vec![free(address, FREE_KINDS[kind], *token), returned(*token, succeeded)]
        }
        Step::Enter { address, kind } => {
            *token += 1;
            open.push(*token);
            vec![free(address, FREE_KINDS[kind], *token)]
        }
        Step::Return { nth, succeeded } if nth < open.len() => {
            vec![returned(open.remove(nth), succeeded)]
        }
        Step::Return { .. } => Vec::new(),
        Step::Map { address, bytes, .. } if model.is_mapped(address, bytes) => Vec::new(),
        Step::Map { handle, address, bytes } => vec![mapped(handle, address, bytes)],
        Step::Unmap { address, bytes } => vec![unmapped(address, bytes)],
        Step::Retain { handle, address } => vec![Body::Retained { handle, address }],
        Step::Export { handle, descriptor } => vec![Body::Exported { handle, descriptor }],
        Step::CloseExport { descriptor } => vec![Body::ExportClosed { descriptor }],
        Step::Import { handle, descriptor } => {
            let (kind, tag) = (AllocKind::ImportedHandle, Tag::Untagged);
            vec![allocated(handle, 1, 0, kind, tag), Body::Imported { handle, descriptor }]
        }
        Step::Bind { multicast, handle, address, offset } => {
            let (device, bytes) = (device_of(0), Bytes(1));
            vec![Body::Bound { multicast, handle, address, device, offset, bytes }]
        }
        Step::Unbind { multicast, offset } => {
            let (device, bytes) = (device_of(0), Bytes(1));
            vec![Body::Unbound { multicast, device, offset, bytes }]
        }
        Step::TellPool { device, pool, reserved } => {
            let (device, reserved) = (device_of(device), Bytes(reserved));
            vec![Body::Pool { device, pool, reserved, used: Bytes(1) }]
        }
        Step::MakePool { device, pool } => {
            vec![Body::PoolCreated { device: device_of(device), pool }]
        }
        Step::EndPool { pool } => vec![Body::PoolDestroyed { pool }],
        Step::TellGraphs { device, reserved } => {
            let (device, reserved) = (device_of(device), Bytes(reserved));
            vec![Body::GraphMemory { device, reserved, used: Bytes(1) }]
        }
        Step::DestroyContext { device } => {
            vec![Body::ContextDestroyed { device: device_of(device), context: device + 1 }]
        }
    }
}

fn assert_agrees(ledger: &Ledger, model: &Model) -> Result<(), TestCaseError> {
    let (totals, findings) = ledger.state();
    prop_assert_eq!(findings.underflows, 0);
    prop_assert_eq!(findings.refused, 0);
    prop_assert_eq!(findings.untracked_frees, model.untracked);
    for device in totals {
        let index = device.device.0;
        for kind in AllocKind::ALL {
            let (bytes, count) = model.live(|k| k.device == index && k.kind == kind);
            let total = &device.by_kind[kind as usize];
            prop_assert_eq!((total.live_bytes.0, total.live_count), (bytes, count), "{:?}", kind);
        }
        let vram = |k: &Known| k.device == index && k.kind.counts_as_vram();
        for tag in Tag::ALL {
            let (bytes, _) = model.live(|k| vram(k) && k.tag == tag);
            prop_assert_eq!(device.by_tag[tag as usize].live_bytes.0, bytes, "{:?}", tag);
            let (bytes, _) = model.live(|k| k.device == index && k.pool.is_some() && k.tag == tag);
            let told: u64 = device.pools.iter().map(|pool| pool.by_tag[tag as usize].0).sum();
            prop_assert_eq!(told, bytes, "{:?} in pools", tag);
        }
        for library in 1..4 {
            let (live, count) = model.live(|k| vram(k) && k.library == library);
            let (untagged, _) =
                model.live(|k| vram(k) && k.library == library && k.tag == Tag::Untagged);
            let row = device.libraries.iter().find(|row| u64::from(row.library.0) == library);
            let row = row.copied().unwrap_or_default();
            let told = (row.live_bytes.0, row.untagged_bytes.0, row.live_count);
            prop_assert_eq!(told, (live, untagged, count), "library {}", library);
        }
        let (exported, _) = model.live(|k| vram(k) && k.is_export_only());
        prop_assert_eq!(device.exported_bytes.0, exported);
        // Every allocation of the model is small.
        let small = model.known.iter().filter(|k| k.is_live() && vram(k));
        let rounded: u64 = small.map(|k| k.bytes.next_multiple_of(512)).sum();
        let (asked, _) = model.live(vram);
        prop_assert_eq!(device.rounding.bytes.0, rounded.next_multiple_of(2 << 20) - asked);
        prop_assert_eq!(device.pool_reserved_bytes.0, model.pool_bytes(index));
        prop_assert_eq!(device.vram.live_bytes.0, model.vram(index));
        prop_assert_eq!(device.vram.peak_bytes.0, model.peaks[index as usize]);
        prop_assert_eq!(device.vram.allocated_bytes.0, model.allocated[index as usize]);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_agrees_with_a_naive_model(steps in proptest::collection::vec(step(), 1..120)) {
        let ledger = Ledger::new(4096);
        let mut model = Model::default();
        let (mut token, mut open) = (0, Vec::new());
        for (i, step) in steps.iter().enumerate() {
            for body in bodies(step, &model, &mut token, &mut open) {
                ledger.accept(&event(i as u64, body));
                model.accept(&body);
                assert_agrees(&ledger, &model)?;
            }
        }
    }
}
