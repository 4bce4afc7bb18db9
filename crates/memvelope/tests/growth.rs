//! What contexts, modules and limits take, as measured around the calls that make them, against the
//! simulator's own books.

#![expect(unsafe_code, reason = "a host program calls the driver's C functions")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
mod sim;

use memvelope::config::Config;
use memvelope::event::{Body, DeviceIndex, Event, Growth, GrowthCause, Names, Seen, Sink};
use memvelope::source::cupti::Recorder;
use memvelope::source::driver::Driver;
use memvelope::source::nvml::Nvml;
use memvelope::units::Bytes;
use sim::{PTX, cu, in_child};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

const MIB: i64 = 1 << 20;

/// Keeps growth, and counts allocations as a ledger does.
#[derive(Debug, Default)]
struct Heard {
    growth: Mutex<Vec<Growth>>,
    bytes: AtomicI64,
    turnover: AtomicU64,
}

impl Sink for Heard {
    fn accept(&self, event: &Event) {
        match event.body {
            Body::ContextGrew(growth) => {
                self.bytes.fetch_add(growth.bytes, Ordering::SeqCst);
                self.growth.lock().unwrap().push(growth);
            }
            Body::Allocated(it) => {
                self.bytes.fetch_add(it.bytes.0 as i64, Ordering::SeqCst);
                self.turnover.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }
    }

    fn seen(&self, _: DeviceIndex) -> Option<Seen> {
        let bytes = self.bytes.load(Ordering::SeqCst);
        Some(Seen { bytes, turnover: self.turnover.load(Ordering::SeqCst) })
    }
}

impl Heard {
    /// Cause, bytes, error bar.
    fn take(&self) -> Vec<(GrowthCause, i64, u64)> {
        let heard = std::mem::take(&mut *self.growth.lock().unwrap());
        heard.iter().map(|it| (it.cause, it.bytes, it.error.0)).collect()
    }
}

struct Host {
    driver: &'static Driver,
    heard: &'static Heard,
    recorder: &'static Recorder,
}

/// Attached, without a context.
fn host(config: &Config) -> Host {
    let driver = Driver::load(config).0.unwrap();
    driver.init().unwrap();
    let devices = driver.devices().unwrap();
    let nvml = Nvml::load(config, driver.path().to_str()).0.unwrap();
    nvml.measure(&devices);
    let heard: &'static Heard = Box::leak(Box::new(Heard::default()));
    let names = Box::leak(Box::new(Names::new(64, 256)));
    let recorder = Recorder::start(config, driver, heard, names).0.unwrap();
    // As the poller does, once it has looked.
    recorder.note_others(DeviceIndex(0), Some(Bytes::ZERO));
    Host { driver, heard, recorder }
}

fn retain() -> u64 {
    let mut context = 0;
    assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
    assert_eq!(cu::cuCtxSetCurrent(context), 0);
    context
}

fn load() -> u64 {
    let mut module = 0;
    assert_eq!(cu::cuModuleLoadData(&mut module, PTX.as_ptr()), 0);
    module
}

const SCENARIO: &str = "[[devices]]\ncontext_bytes = 314572800\nmodule_bytes = 4194304\n";

#[test]
fn what_contexts_and_modules_take_is_measured() {
    in_child("what_contexts_and_modules_take_is_measured", SCENARIO, || {
        use GrowthCause::{Context, Module};
        let host = host(&Config::default());
        retain();
        assert_eq!(host.heard.take(), [(Context, 300 * MIB, 0)]);
        // One more owner takes nothing, and neither does a question of ours.
        retain();
        assert!(host.driver.memory_of(DeviceIndex(0)).unwrap().is_some());
        assert_eq!(host.heard.take(), []);
        let module = load();
        assert_eq!(host.heard.take(), [(Module, 4 * MIB, 0)]);
        load();
        assert_eq!(cu::cuModuleUnload(module), 0);
        assert_eq!(host.heard.take(), [(Module, 4 * MIB, 0), (Module, -4 * MIB, 0)]);
        let mut second = 0;
        assert_eq!(cu::cuCtxCreate_v2(&mut second, 0, 0), 0);
        assert_eq!(host.heard.take(), [(Context, 300 * MIB, 0)]);
        load();
        assert_eq!(cu::cuCtxDestroy_v2(second), 0);
        let gone = [(Module, 4 * MIB, 0), (Context, -300 * MIB, 0), (Module, -4 * MIB, 0)];
        assert_eq!(host.heard.take(), gone);
        assert_eq!(cu::cuDevicePrimaryCtxRelease_v2(0), 0);
        assert_eq!(host.heard.take(), [], "there is another owner");
        assert_eq!(cu::cuDevicePrimaryCtxReset_v2(0), 0);
        assert_eq!(host.heard.take(), [(Context, -300 * MIB, 0), (Module, -4 * MIB, 0)]);
        assert_eq!(host.recorder.moment() & 1, 0);
        host.recorder.stop().unwrap();
        retain();
        assert_eq!(host.heard.take(), [], "nobody records");
    });
}

#[test]
fn it_can_be_switched_off() {
    in_child("it_can_be_switched_off", SCENARIO, || {
        let mut config = Config::default();
        config.context_growth = false;
        let host = host(&config);
        retain();
        load();
        assert_eq!(host.heard.take(), []);
    });
}

/// The other process takes 1 GiB more while the context is made, which takes 1 ms here.
#[test]
fn what_others_take_meanwhile_is_the_error_bar() {
    let scenario = "[[devices]]\ncontext_bytes = 314572800\nmodule_bytes = 4194304\n[[devices.co_tenants]]\npid = 4242\n\
                    bytes = 1073741824\nsteps = [{ after_ns = 500000, bytes = 2147483648 }]\n";
    in_child("what_others_take_meanwhile_is_the_error_bar", scenario, || {
        let host = host(&Config::default());
        retain();
        let grown = host.heard.take();
        let [(GrowthCause::Context, bytes, error)] = grown[..] else { panic!("{grown:?}") };
        assert!((bytes - 300 * MIB).unsigned_abs() <= error, "{bytes} ± {error}");
        assert_eq!(error % (1 << 30), 0);
        for (moved, expect) in [(Some(Bytes(5)), 5), (None, 4 << 20)] {
            host.recorder.note_others(DeviceIndex(0), moved);
            load();
            assert_eq!(host.heard.take(), [(GrowthCause::Module, 4 * MIB, expect)]);
        }
    });
}

/// Threads load modules and allocate at once: whose is whose may be mixed up, the sum may not.
#[test]
fn threads_that_load_at_once_count_every_byte_once() {
    in_child("threads_that_load_at_once_count_every_byte_once", SCENARIO, || {
        let host = host(&Config::default());
        let context = retain();
        host.heard.take();
        std::thread::scope(|scope| {
            for thread in 0..6 {
                scope.spawn(move || {
                    assert_eq!(cu::cuCtxSetCurrent(context), 0);
                    for _ in 0..20 {
                        if thread % 2 == 0 {
                            load();
                        } else {
                            let mut address = 0;
                            assert_eq!(cu::cuMemAlloc_v2(&mut address, 2 << 20), 0);
                        }
                    }
                });
            }
        });
        let heard = host.heard.take();
        let grown: i64 = heard.iter().map(|(_, bytes, _)| bytes).sum();
        let error: u64 = heard.iter().map(|(.., error)| error).sum();
        let books = sim::books();
        let device = &books["devices"][0];
        let expect = device["context_bytes"].as_i64().unwrap() - 300 * MIB;
        assert_eq!(expect, 60 * 4 * MIB);
        // What a thread was just allocating when another one looked is in the error bars.
        assert!((grown - expect).unsigned_abs() <= error, "{grown} ± {error} for {expect}");
    });
}
