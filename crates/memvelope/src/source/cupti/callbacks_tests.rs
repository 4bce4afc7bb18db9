//! Callbacks as CUPTI makes them, from parameter blocks of our own.

use super::*;
use crate::event::{AllocKind, CallKind, DeviceIndex, DriverCall, FreeKind, Sink};
use crate::source::cupti::UNKNOWN_DEVICE;
use crate::source::driver::Driver;
use crate::units::Bytes;
use cupti_sys::callback_site;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The state is the process's, so these tests take turns.
static TURN: Mutex<()> = Mutex::new(());

#[derive(Debug)]
struct Heard(Mutex<Vec<Body>>);

/// A sink that panics when it hears of this many bytes.
const POISON: u64 = 666;

impl Sink for Heard {
    fn accept(&self, event: &Event) {
        if let Body::Allocated(it) = event.body {
            assert!(it.bytes.0 != POISON, "asked for by the test");
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event.body);
    }
}

static HEARD: Heard = Heard(Mutex::new(Vec::new()));

fn turn() -> MutexGuard<'static, ()> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    STATE.connect(&HEARD, Driver::without_functions());
    STATE.broken.store(false, Ordering::Release);
    heard();
    turn
}

/// All that was heard.
fn heard() -> Vec<Body> {
    std::mem::take(&mut HEARD.0.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A driver call seen at one site: 0 before, 1 after.
struct Seen {
    id: u32,
    site: u32,
    result: u32,
    context_uid: u32,
}

fn fire(seen: &Seen, arguments: *const u64, shared: *mut u64) {
    let mut data = [0u8; callback_data::SIZE];
    let mut put = |at: usize, bytes: &[u8]| data[at..at + bytes.len()].copy_from_slice(bytes);
    put(callback_data::SITE, &seen.site.to_ne_bytes());
    put(callback_data::FUNCTION_PARAMS, &(arguments as usize).to_ne_bytes());
    let result = if seen.site == 1 { &raw const seen.result } else { std::ptr::null() };
    put(callback_data::FUNCTION_RETURN_VALUE, &(result as usize).to_ne_bytes());
    put(callback_data::CONTEXT, &0xC0_u64.to_ne_bytes());
    put(callback_data::CONTEXT_UID, &seen.context_uid.to_ne_bytes());
    put(callback_data::CORRELATION_DATA, &(shared as usize).to_ne_bytes());
    put(callback_data::CORRELATION_ID, &77_u32.to_ne_bytes());
    let (user, data) = (std::ptr::null_mut(), data.as_ptr().cast());
    // SAFETY: the block is laid out as CUPTI's and lives for the call, as do the arguments.
    unsafe { on_callback(user, domain::DRIVER_API, seen.id, data) };
}

fn after(id: u32, result: u32, arguments: &[u64]) {
    let seen = Seen { id, site: 1, result, context_uid: 9 };
    fire(&seen, arguments.as_ptr(), std::ptr::null_mut());
}

#[test]
fn a_device_that_nobody_can_name_is_said_to_be_unknown() {
    let _turn = turn();
    let address = 0x5000_u64;
    let before = STATE.unknown_device.load(Ordering::Relaxed);
    after(cbid::MEM_ALLOC_V2, 0, &[(&raw const address) as u64, 64]);
    let bodies = heard();
    let [Body::Allocated(it)] = &bodies[..] else { panic!("{bodies:?}") };
    assert_eq!((it.device, it.address, it.bytes), (UNKNOWN_DEVICE, address, Bytes(64)));
    assert_eq!(STATE.unknown_device.load(Ordering::Relaxed), before + 1);
}

#[test]
fn a_context_is_known_until_it_is_destroyed() {
    let _turn = turn();
    STATE.contexts.learn(0xC0, Known { uid: 9, device: DeviceIndex(3) });
    let address = 0x5000_u64;
    after(cbid::MEM_ALLOC_V2, 0, &[(&raw const address) as u64, 64]);
    assert!(matches!(&heard()[..], [Body::Allocated(it)] if it.device == DeviceIndex(3)));
    let resource = [0xC0_u64, 0, 0];
    for _ in 0..2 {
        // SAFETY: laid out as CUpti_ResourceData, whose first field is the context.
        unsafe {
            on_callback(
                std::ptr::null_mut(),
                domain::RESOURCE,
                resource_cbid::CONTEXT_DESTROY_STARTING,
                resource.as_ptr().cast(),
            );
        }
    }
    assert_eq!(heard(), [Body::ContextDestroyed { device: DeviceIndex(3), context: 9 }]);
}

#[test]
fn the_two_sites_of_a_free_find_each_other() {
    let _turn = turn();
    let arguments = [0x7000_u64];
    let site = |site, shared: *mut u64| {
        let seen = Seen { id: cbid::MEM_FREE_V2, site, result: 0, context_uid: 9 };
        fire(&seen, arguments.as_ptr(), shared);
    };
    // With CUPTI's eight bytes, and without them.
    for shared in [&raw mut *Box::leak(Box::new(0)), std::ptr::null_mut()] {
        site(0, shared);
        site(1, shared);
        let bodies = heard();
        let [
            Body::FreeEntered { address: 0x7000, kind: FreeKind::Device, token },
            Body::DriverCall(DriverCall { call: CallKind::Free, succeeded: true, start, end }),
            Body::FreeReturned { token: returned, succeeded: true },
        ] = &bodies[..]
        else {
            panic!("{bodies:?}")
        };
        assert!(token == returned && start <= end);
    }
    // Attached in between: the entry was never announced.
    site(1, &raw mut *Box::leak(Box::new(0)));
    assert!(heard().is_empty());
}

#[test]
fn physical_memory_is_where_its_properties_say() {
    let _turn = turn();
    let handle = 0x11_u64;
    let (on_host, there) = ((AllocKind::VmmHost, UNKNOWN_DEVICE), DeviceIndex(5));
    for (location, expect) in
        [(1_u32, (AllocKind::Vmm, there)), (6, (AllocKind::Vmm, there)), (2, on_host), (3, on_host)]
    {
        let prop: [u32; 8] = [1, 0, location, 5, 0, 0, 0, 0];
        after(cbid::MEM_CREATE, 0, &[(&raw const handle) as u64, 1 << 21, prop.as_ptr() as u64, 0]);
        let bodies = heard();
        let [Body::Allocated(it)] = &bodies[..] else { panic!("{bodies:?}") };
        assert_eq!((it.kind, it.device), expect);
        assert_eq!((it.context, it.bytes), (0, Bytes(1 << 21)));
    }
    // Refused arguments are not looked at: this pointer leads nowhere.
    after(cbid::MEM_CREATE, 1, &[0, 1 << 21, 0x10, 0]);
    assert!(matches!(&heard()[..], [Body::AllocationFailed(it)] if it.result == 1));
}

#[test]
fn the_family_is_told_call_by_call() {
    let _turn = turn();
    STATE.contexts.learn(0xC0, Known { uid: 9, device: DeviceIndex(3) });
    let result = 0x5000_u64;
    let out = (&raw const result) as u64;
    // id, arguments, what is heard of an allocation: kind, bytes, device, context.
    let multicast: [u64; 4] = [2, 777, 1, 0];
    let buffer: [u64; 11] = [0, 555, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut node = [0_u64; 15];
    (node[1], node[13], node[14]) = (1 | 4 << 32, 333, 0x5000);
    let mut typed = [0_u64; 32];
    typed[0] = 10;
    typed[2..17].copy_from_slice(&node);
    let array: [u64; 3] = [100, 0, 0x20 | 1 << 32];
    type Heard = (AllocKind, u64, u32, u32);
    let cases: [(u32, &[u64], Heard); 12] = [
        (cbid::MEM_HOST_REGISTER, &[0x5000, 64, 0], (AllocKind::Registered, 64, 3, 9)),
        (cbid::MEM_HOST_REGISTER_V2, &[0x5000, 65, 0], (AllocKind::Registered, 65, 3, 9)),
        (cbid::MEM_ALLOC_FROM_POOL_ASYNC, &[out, 66, 4, 0], (AllocKind::PoolUsed, 66, 3, 9)),
        (cbid::MEM_ALLOC_ASYNC_PTSZ, &[out, 67, 0], (AllocKind::PoolUsed, 67, 3, 9)),
        (cbid::IPC_OPEN_MEM_HANDLE_V2, &[out; 10], (AllocKind::ImportedAddress, 0, 3, 9)),
        (cbid::MEM_POOL_IMPORT_POINTER, &[out, 4, 0], (AllocKind::ImportedAddress, 0, 3, 9)),
        (
            cbid::MEM_IMPORT_FROM_SHAREABLE_HANDLE,
            &[out, 5, 1],
            (AllocKind::ImportedHandle, 0, 3, 0),
        ),
        (
            cbid::EXTERNAL_MEMORY_GET_MAPPED_BUFFER,
            &[out, 1, buffer.as_ptr() as u64],
            (AllocKind::ImportedAddress, 555, 3, 9),
        ),
        (
            cbid::MULTICAST_CREATE,
            &[out, multicast.as_ptr() as u64],
            (AllocKind::Multicast, 777, 3, 0),
        ),
        (
            cbid::GRAPH_ADD_MEM_ALLOC_NODE,
            &[0, 0, 0, 0, node.as_ptr() as u64],
            (AllocKind::GraphNode, 333, 4, 9),
        ),
        (
            cbid::GRAPH_ADD_NODE_V2,
            &[0, 0, 0, 0, 0, typed.as_ptr() as u64],
            (AllocKind::GraphNode, 333, 4, 9),
        ),
        (cbid::ARRAY_CREATE_V2, &[out, array.as_ptr() as u64], (AllocKind::Device, 400, 3, 9)),
    ];
    for (id, arguments, (kind, bytes, device, context)) in cases {
        after(id, 0, arguments);
        let bodies = heard();
        let [Body::Allocated(it)] = &bodies[..] else { panic!("{id}: {bodies:?}") };
        assert_eq!((it.kind, it.bytes, it.address), (kind, Bytes(bytes), 0x5000), "{id}");
        assert_eq!((it.device, it.context), (DeviceIndex(device), context), "{id}");
        after(id, 2, arguments);
        assert!(matches!(&heard()[..], [Body::AllocationFailed(_)]), "{id}");
    }
}

#[test]
fn references_exports_and_bindings_are_told() {
    let _turn = turn();
    let (handle, descriptor) = (0x11_u64, i32::MAX);
    let (handle_at, descriptor_at) = ((&raw const handle) as u64, (&raw const descriptor) as u64);
    let free_node: [u64; 32] = std::array::from_fn(|at| [11, 0, 0x5000][at.min(2)]);
    let device = DeviceIndex(7);
    let bytes = Bytes(100);
    let (multicast, offset) = (50, 8);
    let bound =
        |handle, address, device| Body::Bound { multicast, handle, address, device, offset, bytes };
    let cases: [(u32, &[u64], Body); 8] = [
        (
            cbid::MEM_RETAIN_ALLOCATION_HANDLE,
            &[handle_at, 0x40],
            Body::Retained { handle, address: 0x40 },
        ),
        (
            cbid::MEM_EXPORT_TO_SHAREABLE_HANDLE,
            &[descriptor_at, handle, 1, 0],
            Body::Exported { handle, descriptor },
        ),
        (cbid::MULTICAST_BIND_MEM, &[50, 8, 1, 0, 100, 0], bound(1, 0, UNKNOWN_DEVICE)),
        (cbid::MULTICAST_BIND_MEM_V2, &[50, 7, 8, 1, 0, 100, 0], bound(1, 0, device)),
        (cbid::MULTICAST_BIND_ADDR, &[50, 8, 2, 100, 0], bound(0, 2, UNKNOWN_DEVICE)),
        (cbid::MULTICAST_BIND_ADDR_V2, &[50, 7, 8, 2, 100, 0], bound(0, 2, device)),
        (
            cbid::MULTICAST_UNBIND,
            &[50, 7, 8, 100],
            Body::Unbound { multicast, device, offset, bytes },
        ),
        (cbid::MEM_UNMAP, &[5, 100], Body::Unmapped { address: 5, bytes }),
    ];
    for (id, arguments, body) in cases {
        after(id, 0, arguments);
        assert_eq!(heard(), [body], "{id}");
        after(id, 1, arguments);
        assert_eq!(heard(), [], "{id}: it failed");
    }
    // A fabric handle keeps nothing.
    after(cbid::MEM_EXPORT_TO_SHAREABLE_HANDLE, 0, &[descriptor_at, handle, 8, 0]);
    assert_eq!(heard(), []);
    for (id, arguments) in [
        (cbid::GRAPH_ADD_MEM_FREE_NODE, &[0, 0, 0, 0, 0x5000][..]),
        (cbid::GRAPH_ADD_NODE, &[0, 0, 0, 0, free_node.as_ptr() as u64]),
    ] {
        after(id, 0, arguments);
        let bodies = heard();
        assert!(
            matches!(
                bodies[..],
                [
                    Body::FreeEntered { address: 0x5000, .. },
                    Body::FreeReturned { succeeded: true, .. }
                ]
            ),
            "{bodies:?}"
        );
    }
}

#[test]
fn pools_of_other_memory_are_no_pools_of_vram() {
    let _turn = turn();
    let (pool, address) = (0x40_u64, 0x5000_u64);
    let at = [(&raw const pool) as u64, (&raw const address) as u64];
    // Allocation type, location, and what is allocated from such a pool.
    for (allocation, location, kind) in [
        (1_u32, 1_u32, AllocKind::PoolUsed),
        (1, 2, AllocKind::PinnedHost),
        (2, 1, AllocKind::Managed),
        (1, 3, AllocKind::PinnedHost),
    ] {
        let props: [u32; 22] = std::array::from_fn(|i| [allocation, 0, location, 5, 0][i.min(4)]);
        after(cbid::MEM_POOL_CREATE, 0, &[at[0], props.as_ptr() as u64]);
        let made = heard();
        let device = DeviceIndex(5);
        let told: &[Body] = &[Body::PoolCreated { device, pool }];
        assert_eq!(made, if kind == AllocKind::PoolUsed { told } else { &[] });
        after(cbid::MEM_ALLOC_FROM_POOL_ASYNC, 0, &[at[1], 64, pool, 0]);
        assert!(matches!(&heard()[..], [Body::Allocated(it)] if it.kind == kind), "{kind:?}");
        let seen = Seen {
            id: cbid::MEM_POOL_DESTROY,
            site: callback_site::ENTER,
            result: 0,
            context_uid: 9,
        };
        fire(&seen, [pool].as_ptr(), std::ptr::null_mut());
        assert_eq!(heard(), [Body::PoolDestroyed { pool }]);
        fire(&Seen { site: callback_site::EXIT, ..seen }, [pool].as_ptr(), std::ptr::null_mut());
        heard();
    }
}

#[test]
fn a_call_is_under_way_between_its_sites() {
    let _turn = turn();
    let address = 0x5000_u64;
    let arguments = [(&raw const address) as u64, 64];
    let site = |site| {
        let seen = Seen { id: cbid::MEM_ALLOC_V2, site, result: 0, context_uid: 9 };
        fire(&seen, arguments.as_ptr(), std::ptr::null_mut());
        heard()
    };
    let before = STATE.under_way.moment();
    assert_eq!((site(callback_site::ENTER), STATE.under_way.count()), (vec![], 1));
    let bodies = site(callback_site::EXIT);
    assert!(matches!(bodies[..], [Body::DriverCall(_), Body::Allocated(_)]), "{bodies:?}");
    assert!(STATE.under_way.count() == 0 && STATE.under_way.moment() > before);
    // Attached in between: its beginning was not told.
    assert!(matches!(site(callback_site::EXIT)[..], [Body::Allocated(_)]));
    assert_eq!(STATE.under_way.count(), 0);
}

#[test]
fn nonsense_is_no_event() {
    let _turn = turn();
    let null = 0_u64;
    after(cbid::MEM_ALLOC_V2, 0, &[0, 64]);
    after(cbid::MEM_ALLOC_V2, 0, &[(&raw const null) as u64, 64]);
    after(cbid::MEM_FREE_V2, 0, &[0]);
    after(999, 0, &[0; 8]);
    let seen = Seen { id: cbid::MEM_ALLOC_V2, site: 1, result: 0, context_uid: 0 };
    fire(&seen, std::ptr::null(), std::ptr::null_mut());
    // SAFETY: null data is what this tests.
    unsafe { on_callback(std::ptr::null_mut(), domain::DRIVER_API, 243, std::ptr::null()) };
    assert!(heard().is_empty());
}

#[test]
fn a_panicking_sink_ends_recording_and_nothing_else() {
    let _turn = turn();
    let before = STATE.caught_panics.load(Ordering::Relaxed);
    let address = 0x5000_u64;
    after(cbid::MEM_ALLOC_V2, 0, &[(&raw const address) as u64, POISON]);
    assert_eq!(STATE.caught_panics.load(Ordering::Relaxed), before + 1);
    after(cbid::MEM_ALLOC_V2, 0, &[(&raw const address) as u64, 64]);
    assert!(heard().is_empty());
    assert!(!Inside::is_inside(), "the guard left with the unwind");
    STATE.broken.store(false, Ordering::Release);
}

#[test]
fn buffers_are_handed_out_through_the_c_edge() {
    let _turn = turn();
    let arena = STATE.arena_of(4096, 4).unwrap();
    let (mut buffer, mut size, mut records) = (std::ptr::null_mut(), 0, 7);
    // SAFETY: three places to write to, as CUPTI passes them; then the same buffer back.
    unsafe {
        buffer_requested(&raw mut buffer, &raw mut size, &raw mut records);
        assert!(!buffer.is_null() && size == arena.buffer_bytes() && records == 0);
        buffer_completed(std::ptr::null_mut(), 0, buffer, size, usize::MAX);
        buffer_requested(std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        buffer_completed(std::ptr::null_mut(), 0, std::ptr::null_mut(), 0, 0);
    }
    let completed = arena.next_completed().unwrap();
    assert_eq!(completed.bytes().len(), size, "more than the buffer holds is not believed");
}
