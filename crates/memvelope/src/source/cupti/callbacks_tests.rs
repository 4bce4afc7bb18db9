//! Callbacks as CUPTI makes them, from parameter blocks of our own.

use super::*;
use crate::event::Sink;
use crate::source::driver::Driver;
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
fn physical_memory_on_the_host_is_not_vram() {
    let _turn = turn();
    let handle = 0x11_u64;
    for (location, expect) in [(1_u32, true), (2, false), (3, false)] {
        let prop: [u32; 8] = [1, 0, location, 5, 0, 0, 0, 0];
        after(cbid::MEM_CREATE, 0, &[(&raw const handle) as u64, 1 << 21, prop.as_ptr() as u64, 0]);
        let bodies = heard();
        assert_eq!(!bodies.is_empty(), expect, "{bodies:?}");
        if let [Body::Allocated(it)] = &bodies[..] {
            assert_eq!((it.device, it.context, it.kind), (DeviceIndex(5), 0, AllocKind::Vmm));
        }
    }
    // Refused arguments are not looked at: this pointer leads nowhere.
    after(cbid::MEM_CREATE, 1, &[0, 1 << 21, 0x10, 0]);
    assert!(matches!(&heard()[..], [Body::AllocationFailed(it)] if it.result == 1));
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
