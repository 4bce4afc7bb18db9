//! The sources on the simulated driver. Each case runs in a child process whose library path
//! begins with a folder of links to the simulator, and calls libcuda as a host program would.

#![expect(unsafe_code, reason = "a host program calls the driver's C functions")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
mod sim;

use memvelope::config::Config;
use memvelope::event::{
    AllocKind, Body, Direction, DropReason, Event, FreeKind, Names, SeenBy, Sink, SyncKind, Tag,
    tagged,
};
use memvelope::source::cupti::{Recorder, UNKNOWN_DEVICE};
use memvelope::source::driver::{Driver, Reading};
use memvelope::source::loader::{LoadReport, Outcome};
use memvelope::source::nvml::Nvml;
use memvelope::units::Bytes;
use memvelope::{Error, Result};
use sim::{PTX, cu, in_child, in_child_with};
use std::sync::Mutex;

const MIB: u64 = 1 << 20;

/// Keeps what it is told.
#[derive(Debug, Default)]
struct Heard(Mutex<Vec<Event>>);

impl Sink for Heard {
    fn accept(&self, event: &Event) {
        // When calls are entered and left, and how long they took, comes beside what they did.
        if matches!(event.body, Body::DriverCall(_)) {
            return;
        }
        self.0.lock().unwrap().push(*event);
    }
}

impl Heard {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn bodies(&self) -> Vec<Body> {
        self.take().iter().map(|event| event.body).collect()
    }
}

struct Host {
    driver: &'static Driver,
    heard: &'static Heard,
    names: &'static Names,
    context: u64,
}

/// Driver loaded and initialised, primary context current.
fn host() -> Host {
    let (driver, report) = Driver::load(&Config::default());
    let driver = driver.unwrap_or_else(|error| panic!("{error}: {report:?}"));
    assert!(report.simulated && report.missing_symbols.is_empty(), "{report:?}");
    driver.init().unwrap();
    let mut context = 0;
    assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
    assert_eq!(cu::cuCtxSetCurrent(context), 0);
    let heard = Box::leak(Box::new(Heard::default()));
    let names = Box::leak(Box::new(Names::new(64, 256)));
    Host { driver, heard, names, context }
}

impl Host {
    fn record(&self) -> &'static Recorder {
        self.record_with(&Config::default()).0.unwrap()
    }

    fn record_with(&self, config: &Config) -> (Result<&'static Recorder>, LoadReport) {
        Recorder::start(config, self.driver, self.heard, self.names)
    }
}

fn drained(recorder: &Recorder) -> Vec<Event> {
    recorder.flush(true).unwrap();
    let mut events = Vec::new();
    recorder.drain(&mut |event| events.push(*event));
    events
}

fn alloc(bytes: u64) -> u64 {
    let mut address = 0;
    assert_eq!(cu::cuMemAlloc_v2(&mut address, bytes as usize), 0);
    address
}

fn launch(times: u32) {
    let (mut module, mut function) = (0, 0);
    assert_eq!(cu::cuModuleLoadData(&mut module, PTX.as_ptr()), 0);
    assert_eq!(cu::cuModuleGetFunction(&mut function, module, c"idle".as_ptr()), 0);
    let none = std::ptr::null_mut();
    for _ in 0..times {
        let code =
            cu::cuLaunchKernel(function, 4, 2, 1, 128, 1, 1, 0, 0, std::ptr::null_mut(), none);
        assert_eq!(code, 0);
    }
    assert_eq!(cu::cuCtxSynchronize(), 0);
}

#[test]
fn every_allocation_family_is_seen_with_its_tag() {
    in_child("every_allocation_family_is_seen_with_its_tag", "", || {
        let host = host();
        let recorder = host.record();
        assert!(recorder.coverage().callbacks, "{:?}", recorder.coverage());
        let weights = tagged(Tag::Weights);
        let device = alloc(5 * MIB);
        drop(weights);
        let (mut managed, mut pinned, mut pinned2, mut pooled) = (0, 0, 0, 0);
        let (mut pitched, mut pitch) = (0, 0);
        assert_eq!(cu::cuMemAllocManaged(&mut managed, 2 << 20, 1), 0);
        assert_eq!(cu::cuMemHostAlloc(&mut pinned, 4096, 0), 0);
        assert_eq!(cu::cuMemAllocHost_v2(&mut pinned2, 8192), 0);
        assert_eq!(cu::cuMemAllocAsync(&mut pooled, 1 << 20, 0), 0);
        assert_eq!(cu::cuMemAllocPitch_v2(&mut pitched, &mut pitch, 100, 10, 4), 0);
        let heard = host.heard.take().into_iter();
        let allocations: Vec<_> = heard
            // The pool was there before, and is asked when it is first met.
            .filter(|event| !matches!(event.body, Body::Pool { reserved: Bytes::ZERO, .. }))
            .map(|event| match event.body {
                Body::Allocated(it) => {
                    assert!(event.seen_by == SeenBy::Callback && event.time.0 > 0);
                    assert!(it.device.0 == 0 && it.context != 0);
                    (it.kind, it.address, it.bytes.0, it.tag)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        let none = Tag::Untagged;
        assert_eq!(
            allocations,
            [
                (AllocKind::Device, device, 5 * MIB, Tag::Weights),
                (AllocKind::Managed, managed, 2 << 20, none),
                (AllocKind::PinnedHost, pinned, 4096, none),
                (AllocKind::PinnedHost, pinned2, 8192, none),
                (AllocKind::PoolUsed, pooled, 1 << 20, none),
                (AllocKind::Pitch, pitched, pitch as u64 * 10, none),
            ]
        );
        assert_eq!(cu::cuMemFree_v2(device), 0);
        assert_eq!(cu::cuMemFreeHost(pinned), 0);
        assert_eq!(cu::cuMemFreeAsync(pooled, 0), 0);
        let frees = host.heard.bodies();
        let expect = [
            (device, FreeKind::Device),
            (pinned, FreeKind::PinnedHost),
            (pooled, FreeKind::PoolUsed),
        ];
        assert_eq!(frees.len(), 6, "{frees:?}");
        for (pair, (freed, family)) in frees.chunks(2).zip(expect) {
            let [
                Body::FreeEntered { address, kind, token },
                Body::FreeReturned { token: returned, succeeded: true },
            ] = pair
            else {
                panic!("{pair:?}")
            };
            assert_eq!((*address, *kind, token), (freed, family, returned));
        }
        assert_eq!(recorder.counters().unknown_device, 0);
        assert_eq!(recorder.counters().caught_panics, 0);
        recorder.stop().unwrap();
    });
}

#[test]
fn virtual_memory_is_a_handle_and_views() {
    in_child("virtual_memory_is_a_handle_and_views", "", || {
        let host = host();
        let recorder = host.record();
        // Pinned (1), no shareable handle (0), on a device (1), the first (0).
        let (props, bytes) = ([1, 0, 1, 0], 4 << 20);
        let (mut handle, mut address) = (0, 0);
        assert_eq!(cu::cuMemAddressReserve(&mut address, bytes, 0, 0, 0), 0);
        assert_eq!(cu::cuMemCreate(&mut handle, bytes, &props, 0), 0);
        assert_eq!(cu::cuMemMap(address, bytes, 0, handle, 0), 0);
        assert_eq!(cu::cuMemUnmap(address, bytes), 0);
        assert_eq!(cu::cuMemRelease(handle), 0);
        let size = Bytes(bytes as u64);
        let bodies = host.heard.bodies();
        let [
            Body::Allocated(created),
            mapped,
            unmapped,
            Body::FreeEntered { address: freed, kind: FreeKind::Vmm, token },
            Body::FreeReturned { token: returned, succeeded: true },
        ] = &bodies[..]
        else {
            panic!("{bodies:?}")
        };
        assert_eq!((created.kind, created.address), (AllocKind::Vmm, handle));
        assert_eq!((created.bytes, created.device.0), (size, 0));
        assert_eq!(*mapped, Body::Mapped { handle, address, bytes: size });
        assert_eq!(*unmapped, Body::Unmapped { address, bytes: size });
        assert_eq!((*freed, token), (handle, returned));
        recorder.stop().unwrap();
    });
}

#[test]
fn failures_are_events_too() {
    in_child("failures_are_events_too", "", || {
        let host = host();
        let recorder = host.record();
        let mut address = 0;
        assert_eq!(cu::cuMemAlloc_v2(&mut address, 1 << 50), 2);
        assert_eq!(cu::cuMemFree_v2(0x1234), 1);
        assert_eq!(cu::cuMemFree_v2(0), 0, "freeing null is legal");
        let bodies = host.heard.bodies();
        let [
            Body::AllocationFailed(failure),
            Body::FreeEntered { address: 0x1234, token, .. },
            Body::FreeReturned { token: returned, succeeded: false },
        ] = &bodies[..]
        else {
            panic!("{bodies:?}")
        };
        assert_eq!((failure.bytes, failure.result), (Bytes(1 << 50), 2));
        assert_eq!(token, returned);
        recorder.stop().unwrap();
    });
}

#[test]
fn the_devices_work_comes_out_of_the_drain() {
    let test = "the_devices_work_comes_out_of_the_drain";
    for cupti in ["12.0", "12.9", "13.0", "13.5"] {
        in_child(test, &format!("cupti = \"{cupti}\""), || {
            let host = host();
            let recorder = host.record();
            let address = alloc(MIB);
            let data = vec![1u8; 1 << 16];
            assert_eq!(cu::cuMemcpyHtoD_v2(address, data.as_ptr(), data.len()), 0);
            assert_eq!(cu::cuMemsetD8_v2(address, 3, 4096), 0);
            launch(3);
            assert_eq!(cu::cuMemFree_v2(address), 0);
            let events = drained(recorder);
            let kernels: Vec<_> = events
                .iter()
                .filter_map(|event| match event.body {
                    Body::Kernel(kernel) => Some(kernel),
                    _ => None,
                })
                .collect();
            assert_eq!(kernels.len(), 3, "{events:?}");
            for kernel in &kernels {
                assert_eq!(host.names.text(kernel.name), "idle");
                assert_eq!((kernel.grid, kernel.block), ([4, 2, 1], [128, 1, 1]));
                assert!(kernel.start.0 > 0 && kernel.end > kernel.start);
            }
            assert!(kernels.is_sorted_by_key(|kernel| kernel.start));
            let any = |found: &dyn Fn(&Body) -> bool| events.iter().any(|it| found(&it.body));
            assert!(any(&|body| matches!(body, Body::Copy(copy)
                if copy.direction == Direction::HostToDevice && copy.bytes == Bytes(1 << 16))));
            assert!(any(&|body| matches!(body, Body::Memset(set) if set.bytes == Bytes(4096))));
            assert!(any(&|body| matches!(body, Body::Sync(it) if it.kind == SyncKind::Context)));
            for freed in [false, true] {
                assert!(any(&|body| matches!(body, Body::MemoryRecord(it)
                    if it.is_free == freed && it.address == address)));
            }
            assert!(events.iter().all(|event| event.seen_by == SeenBy::Activity));
            let counters = recorder.counters();
            assert_eq!(counters.records, events.len() as u64);
            assert_eq!((counters.bad_records, counters.unknown_kinds), (0, 0));
            assert_eq!(counters.buffers_requested, counters.buffers_completed);
            recorder.stop().unwrap();
        });
    }
}

/// The older form of the subscription refused, for another reason than that somebody has it.
const NO_CALLBACKS: &str = "cupti = \"12.9\"\n[[faults]]\ncall = \"cuptiSubscribe\"\ncode = 35\n";

#[test]
fn where_callbacks_are_refused_memory_records_take_over() {
    in_child("where_callbacks_are_refused_memory_records_take_over", NO_CALLBACKS, || {
        let host = host();
        let recorder = host.record();
        let coverage = recorder.coverage();
        assert!(!coverage.callbacks && coverage.kinds.iter().any(|k| k == "MEMORY2"));
        assert!(coverage.missing[0].contains("cuptiSubscribe returned 35"), "{coverage:?}");
        let address = alloc(3 * MIB);
        assert_eq!(cu::cuMemFree_v2(address), 0);
        assert!(host.heard.take().is_empty());
        let events = drained(recorder);
        let is_cost = |body: &Body| matches!(body, Body::Overhead(_));
        let bodies: Vec<_> =
            events.iter().map(|event| event.body).filter(|body| !is_cost(body)).collect();
        let [
            Body::Allocated(allocated),
            Body::FreeEntered { address: freed, kind: FreeKind::Device, token },
            Body::FreeReturned { token: returned, succeeded: true },
        ] = &bodies[..]
        else {
            panic!("{bodies:?}")
        };
        assert_eq!((allocated.address, allocated.bytes), (address, Bytes(3 * MIB)));
        assert_eq!((*freed, token), (address, returned));
        recorder.stop().unwrap();
    });
}

#[test]
fn stopped_means_silent_and_it_starts_again() {
    in_child("stopped_means_silent_and_it_starts_again", "", || {
        let host = host();
        for round in 1..=3 {
            let recorder = host.record();
            let (again, _) = host.record_with(&Config::default());
            assert!(matches!(again, Err(Error::SessionExists)));
            let address = alloc(MIB);
            launch(2);
            let events = drained(recorder);
            let kernels = events.iter().filter(|it| matches!(it.body, Body::Kernel(_))).count();
            assert_eq!(kernels, 2, "round {round}");
            assert_eq!(host.heard.take().len(), 1);
            assert_eq!(recorder.counters().callbacks, 4, "both sites of two calls");
            recorder.stop().unwrap();
            recorder.stop().unwrap();
            assert_eq!(cu::cuMemFree_v2(address), 0);
            launch(1);
            assert!(host.heard.take().is_empty());
            assert!(drained(recorder).is_empty());
        }
    });
}

#[test]
fn an_exhausted_arena_drops_records_and_says_so() {
    let test = "an_exhausted_arena_drops_records_and_says_so";
    for cupti in ["12.0", "13.0"] {
        in_child(test, &format!("cupti = \"{cupti}\""), || {
            let host = host();
            let config = Config::read(|name| match name {
                "MEMVELOPE_BUFFER_BYTES" => Some("65536".into()),
                "MEMVELOPE_BUFFER_COUNT" => Some("2".into()),
                _ => None,
            })
            .0;
            let recorder = host.record_with(&config).0.unwrap();
            launch(4000);
            let events = drained(recorder);
            let kernels = events.iter().filter(|it| matches!(it.body, Body::Kernel(_))).count();
            assert!(kernels > 0 && kernels < 4000, "{kernels}");
            let counters = recorder.counters();
            assert!(counters.arena_exhausted > 0, "{counters:?}");
            let told = events.iter().any(|it| {
                matches!(it.body, Body::Dropped { reason: DropReason::ArenaExhausted, count }
                    if count == counters.arena_exhausted)
            });
            assert!(told);
            // The arena is whole again.
            launch(10);
            let events = drained(recorder);
            let kernels = events.iter().filter(|it| matches!(it.body, Body::Kernel(_))).count();
            assert_eq!(kernels, 10);
            recorder.stop().unwrap();
        });
    }
}

#[test]
fn what_stop_brings_back_is_counted_and_not_the_next_recordings() {
    in_child("what_stop_brings_back_is_counted_and_not_the_next_recordings", "", || {
        let host = host();
        let config = Config::read(|name| match name {
            "MEMVELOPE_BUFFER_BYTES" => Some("65536".into()),
            "MEMVELOPE_BUFFER_COUNT" => Some("2".into()),
            _ => None,
        })
        .0;
        let recorder = host.record_with(&config).0.unwrap();
        launch(4000);
        recorder.stop().unwrap();
        let dropped = sim::books()["activity"]["dropped"].as_u64().unwrap();
        assert!(dropped > 0);
        assert_eq!(recorder.counters().dropped_by_cupti, dropped);
        // Nobody drained that recording: what it left behind is not this one's.
        let recorder = host.record_with(&config).0.unwrap();
        launch(3);
        let events = drained(recorder);
        assert_eq!(events.iter().filter(|event| is_kernel(event)).count(), 3);
        recorder.stop().unwrap();
    });
}

#[test]
fn missing_functions_are_named_and_the_rest_goes_on() {
    let test = "missing_functions_are_named_and_the_rest_goes_on";
    in_child(test, "missing = [\"cuDeviceGetDefaultMemPool\"]\n", || {
        let host = host();
        let device = host.driver.devices().unwrap().remove(0).index;
        let reading = host.driver.reading_of(device, &()).unwrap().unwrap();
        assert!(reading.problems.is_empty() && pool_in(&reading).is_none(), "{reading:?}");
        assert!(host.driver.memory_of(device).unwrap().is_some());
    });
}

#[test]
fn the_planes_agree_on_the_same_device() {
    in_child("the_planes_agree_on_the_same_device", "", || {
        let host = host();
        let config = Config::default();
        let devices = host.driver.devices().unwrap();
        assert!(devices[0].uuid.starts_with("GPU-") && devices[0].uuid.len() == 40);
        let total = devices[0].total_bytes;
        let (nvml, report) = Nvml::load(&config, host.driver.path().to_str());
        let nvml = nvml.unwrap_or_else(|error| panic!("{error}: {report:?}"));
        assert!(report.simulated && report.is_loaded());
        let before = used(&nvml, &devices[0]);
        alloc(64 * MIB);
        let after = used(&nvml, &devices[0]);
        assert_eq!(after.0.0 - before.0.0, 64 * MIB);
        assert_eq!(after.1.unwrap().0 - before.1.unwrap().0, 64 * MIB);
        for event in [host.driver.memory_here(), host.driver.memory_of(devices[0].index)] {
            let Body::DeviceMemory { device, total: seen, free } = event.unwrap().unwrap().body
            else {
                panic!("cuMemGetInfo")
            };
            assert_eq!((device, seen), (devices[0].index, total));
            assert!(free.0 < total.0 - 64 * MIB);
        }
        let mut pooled = 0;
        assert_eq!(cu::cuMemAllocAsync(&mut pooled, 1 << 20, 0), 0);
        let reading = host.driver.reading_of(devices[0].index, &()).unwrap().unwrap();
        let (reserved, used) = pool_in(&reading).unwrap();
        assert!(used == Bytes(1 << 20) && reserved >= used);
        assert_eq!((reading.total, reading.moved), (total, Bytes::ZERO));
        assert!(!nvml.driver_version().unwrap().is_empty());
    });
}

/// Reserved and used bytes of the default pool.
fn pool_in(reading: &Reading) -> Option<(Bytes, Bytes)> {
    reading.events.iter().find_map(|event| {
        let Body::Pool { pool, reserved, used, .. } = event.body else { return None };
        (pool == reading.default_pool).then_some((reserved, used))
    })
}

fn used(nvml: &Nvml, device: &memvelope::source::driver::DeviceInfo) -> (Bytes, Option<Bytes>) {
    let processes = nvml.processes_of(device).unwrap();
    assert!(processes.is_alone(), "{processes:?}");
    match nvml.use_of(device, Some(&processes)).unwrap().unwrap().body {
        Body::DeviceUse { used, process_used, .. } => (used, process_used),
        other => panic!("{other:?}"),
    }
}

#[test]
fn asking_does_not_keep_a_context_alive() {
    in_child("asking_does_not_keep_a_context_alive", "", || {
        let host = host();
        let device = host.driver.devices().unwrap()[0].index;
        assert!(host.driver.memory_of(device).unwrap().is_some());
        assert_eq!(cu::cuDevicePrimaryCtxRelease_v2(0), 0);
        let (mut flags, mut active) = (0, 1);
        assert_eq!(cu::cuDevicePrimaryCtxGetState(0, &mut flags, &mut active), 0);
        assert_eq!(active, 0, "our question left the context as it was");
        assert_eq!(host.driver.memory_of(device).unwrap(), None);
        assert!(host.driver.reading_of(device, &()).unwrap().is_none());
        assert_ne!(host.context, 0);
    });
}

#[test]
fn cupti_waits_for_the_driver() {
    in_child("cupti_waits_for_the_driver", "init_code = 100\n", || {
        let (driver, _) = Driver::load(&Config::default());
        let driver = driver.unwrap();
        let error = driver.init().unwrap_err();
        assert!(matches!(error, Error::DriverCall { code: 100, .. }), "{error}");
        assert!(Driver::init_hint(&error).unwrap().contains("no device"));
        let heard = Box::leak(Box::new(Heard::default()));
        let names = Box::leak(Box::new(Names::new(4, 16)));
        let (recorder, report) = Recorder::start(&Config::default(), driver, heard, names);
        assert!(recorder.is_err() && report.candidates.is_empty(), "{report:?}");
        assert!(report.hint.contains("cuInit"));
        assert!(driver.version().is_ok());
    });
}

#[test]
fn a_foreign_libcupti_beside_the_simulator_is_refused() {
    let test = "a_foreign_libcupti_beside_the_simulator_is_refused";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("libcupti.so.13");
    std::fs::write(&file, "somebody else's").unwrap();
    in_child_with(
        test,
        "",
        &[("MEMVELOPE_CUPTI_PATH", &file), ("MEMVELOPE_NVML_PATH", &file)],
        || {
            let host = host();
            let config = Config::from_env().0;
            let (recorder, report) = host.record_with(&config);
            assert!(recorder.is_err());
            assert!(matches!(report.candidates[0].outcome, Outcome::Failed(_)), "{report:?}");
            assert!(report.hint.contains("simulated"));
            let (nvml, report) = Nvml::load(&config, host.driver.path().to_str());
            assert!(nvml.is_err() && report.hint.contains("simulated"), "{report:?}");
        },
    );
}

#[test]
fn a_forked_child_is_inert() {
    in_child("a_forked_child_is_inert", "", || {
        let host = host();
        let recorder = host.record();
        alloc(MIB);
        host.heard.take();
        // SAFETY: the child only calls what must be inert, and leaves by _exit.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let quiet = recorder.flush(true).is_ok()
                && recorder.drain(&mut |_| {}) == 0
                && recorder.stop().is_ok()
                && recorder.now().0 > 0;
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(i32::from(!quiet)) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just forked.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status}");
        alloc(MIB);
        assert_eq!(host.heard.take().len(), 1, "the parent goes on");
        recorder.stop().unwrap();
    });
}

#[test]
fn threads_allocate_and_launch_while_it_drains() {
    in_child("threads_allocate_and_launch_while_it_drains", "", || {
        let host = host();
        let recorder = host.record();
        let context = host.context;
        let mut kernels = 0;
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(move || {
                        assert_eq!(cu::cuCtxSetCurrent(context), 0);
                        for _ in 0..50 {
                            let address = alloc(4096);
                            launch(2);
                            assert_eq!(cu::cuMemFree_v2(address), 0);
                        }
                    })
                })
                .collect();
            while workers.iter().any(|worker| !worker.is_finished()) {
                recorder.flush(false).unwrap();
                recorder.drain(&mut |event| kernels += u32::from(is_kernel(event)));
            }
        });
        kernels += drained(recorder).iter().filter(|event| is_kernel(event)).count() as u32;
        assert_eq!(kernels, 4 * 50 * 2);
        let bodies = host.heard.bodies();
        let count = |found: fn(&Body) -> bool| bodies.iter().filter(|body| found(body)).count();
        assert_eq!(count(|body| matches!(body, Body::Allocated(it) if it.device.0 == 0)), 200);
        assert_eq!(count(|body| matches!(body, Body::FreeReturned { succeeded: true, .. })), 200);
        assert_eq!(recorder.counters().bad_records, 0);
        assert!(
            bodies
                .iter()
                .all(|body| !matches!(body, Body::Allocated(it) if it.device == UNKNOWN_DEVICE))
        );
        recorder.stop().unwrap();
    });
}

fn is_kernel(event: &Event) -> bool {
    matches!(event.body, Body::Kernel(_))
}

#[test]
fn without_a_driver_everything_is_a_report() {
    let (driver, report) = Driver::load(&Config::default());
    if driver.is_ok() {
        println!("ignored: this machine has a driver");
        return;
    }
    assert!(report.candidates.len() > 1 && !report.hint.is_empty(), "{report:?}");
    assert!(report.candidates.iter().all(|it| matches!(it.outcome, Outcome::Failed(_))));
    let text = driver.unwrap_err().to_string();
    assert!(text.contains("libcuda.so.1") && text.contains("hint: "), "{text}");
    let (nvml, report) = Nvml::load(&Config::default(), None);
    assert!(nvml.is_err() && report.candidates.len() > 1 && !report.hint.is_empty(), "{report:?}");
}
