//! The tables the simulator is made from: exported names, record layouts against CUPTI's own, and
//! what happens to scenarios that cannot be read.

#![expect(unsafe_code, reason = "looks symbols up")]
#![allow(clippy::unwrap_used, reason = "tests end by panicking")]

mod common;

use common::{cu, in_child, refused};
use memvelope_sim::{CUPTI_FUNCTIONS, LAYOUTS, NVML_FUNCTIONS, driver_functions, scenario};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

#[test]
fn every_declared_function_is_exported_once() {
    // SAFETY: the simulator has no constructors to speak of.
    let library = unsafe { libloading::Library::new(common::library()) }.unwrap();
    let declared = driver_functions().map(|(name, _)| name);
    let declared: Vec<&str> = declared
        .chain(CUPTI_FUNCTIONS.iter().copied())
        .chain(NVML_FUNCTIONS.iter().copied())
        .chain(["nvmlErrorString", "memvelope_sim_version", "memvelope_sim_books"])
        .chain(["memvelope_sim_advance", "memvelope_sim_range_push", "memvelope_sim_range_pop"])
        .chain(["memvelope_sim_mark"])
        .collect();
    for name in &declared {
        // SAFETY: looked up, not called.
        assert!(unsafe { library.get::<*const ()>(name.as_bytes()) }.is_ok(), "{name}");
    }
    assert_eq!(declared.iter().collect::<BTreeSet<_>>().len(), declared.len());
    let cbids: Vec<u32> = driver_functions().map(|(_, cbid)| cbid).filter(|id| *id != 0).collect();
    assert_eq!(cbids.iter().collect::<BTreeSet<_>>().len(), cbids.len(), "callback ids are unique");
}

/// Callback ids as CUPTI's headers state them.
static CALLBACK_IDS: &[(&str, u32)] = &[
    ("cuMemAlloc_v2", 243),
    ("cuMemAllocPitch_v2", 244),
    ("cuMemFree_v2", 245),
    ("cuMemAllocManaged", 371),
    ("cuMemHostAlloc", 39),
    ("cuMemAllocHost_v2", 294),
    ("cuMemFreeHost", 38),
    ("cuMemAddressReserve", 547),
    ("cuMemAddressFree", 548),
    ("cuMemCreate", 549),
    ("cuMemRelease", 550),
    ("cuMemMap", 551),
    ("cuMemUnmap", 552),
    ("cuMemExportToShareableHandle", 554),
    ("cuMemImportFromShareableHandle", 555),
    ("cuMemGetAllocationPropertiesFromHandle", 557),
    ("cuMemGetAccess", 558),
    ("cuMulticastCreate", 706),
    ("cuMulticastAddDevice", 707),
    ("cuMulticastBindMem", 708),
    ("cuMulticastBindMem_v2", 820),
    ("cuMulticastBindAddr", 709),
    ("cuMulticastBindAddr_v2", 821),
    ("cuMulticastUnbind", 710),
    ("cuMulticastGetGranularity", 711),
    ("cuMemAllocAsync", 598),
    ("cuMemAllocAsync_ptsz", 599),
    ("cuMemFreeAsync", 600),
    ("cuMemFreeAsync_ptsz", 601),
    ("cuMemPoolCreate", 607),
    ("cuIpcGetMemHandle", 328),
    ("cuIpcOpenMemHandle", 329),
    ("cuIpcOpenMemHandle_v2", 567),
    ("cuIpcCloseMemHandle", 330),
    ("cuGraphAddMemAllocNode", 638),
    ("cuGraphAddMemFreeNode", 639),
    ("cuDeviceGraphMemTrim", 640),
    ("cuDeviceGetGraphMemAttribute", 641),
    ("cuDeviceSetGraphMemAttribute", 642),
    ("cuModuleGetLoadingMode", 673),
    ("cuLibraryLoadData", 678),
    ("cuLibraryUnload", 680),
    ("cuLibraryGetKernel", 681),
    ("cuLibraryGetModule", 682),
    ("cuKernelGetFunction", 683),
    ("cuFuncGetModule", 566),
    ("cuFuncIsLoaded", 741),
    ("cuFuncLoad", 742),
    ("cuMemHostGetFlags", 42),
    ("cuMemHostRegister_v2", 379),
    ("cuMemHostUnregister", 302),
    ("cuArrayCreate_v2", 272),
    ("cuArray3DCreate_v2", 274),
    ("cuArrayDestroy", 89),
    ("cuPointerGetAttribute", 310),
    ("cuPointerGetAttributes", 450),
    ("cuCtxCreate_v3", 645),
    ("cuDevicePrimaryCtxReset", 389),
    ("cuLibraryLoadFromFile", 679),
    ("cuModuleLoadFatBinary", 21),
    ("cuMemHostRegister", 301),
    ("cuGraphAddNode", 712),
    ("cuGraphAddNode_v2", 723),
    ("cuStreamBeginCaptureToGraph", 720),
    ("cuStreamBeginCaptureToGraph_ptsz", 721),
    ("cuLaunchCooperativeKernel_ptsz", 478),
    ("cuCtxGetId", 695),
    ("cuDeviceCanAccessPeer", 312),
    ("cuCtxEnablePeerAccess", 313),
    ("cuCtxDisablePeerAccess", 314),
    ("cuMemcpyAsync_ptsz", 418),
    ("cuEventRecordWithFlags", 587),
    ("cuEventRecordWithFlags_ptsz", 588),
    ("cuMemAdvise", 457),
    ("cuMemPrefetchAsync", 467),
    ("cuMemPrefetchAsync_v2_ptsz", 717),
    ("cuMemPoolSetAccess", 605),
    ("cuMemPoolGetAccess", 617),
    ("cuMemGetDefaultMemPool", 801),
    ("cuMemGetMemPool", 802),
    ("cuMemSetMemPool", 803),
    ("cuMemPoolExportToShareableHandle", 613),
    ("cuMemPoolImportFromShareableHandle", 614),
    ("cuMemPoolExportPointer", 615),
    ("cuMemPoolImportPointer", 616),
    ("cuMemAllocFromPoolAsync", 611),
    ("cuMemAllocFromPoolAsync_ptsz", 612),
    ("cuMemcpyPeer", 318),
    ("cuGraphCreate", 501),
    ("cuGraphAddKernelNode_v2", 689),
    ("cuGraphAddMemcpyNode", 504),
    ("cuGraphAddMemsetNode", 506),
    ("cuGraphInstantiate_v2", 578),
    ("cuGraphInstantiateWithFlags", 643),
    ("cuGraphLaunch", 514),
    ("cuGraphLaunch_ptsz", 515),
    ("cuGraphUpload", 580),
    ("cuGraphExecDestroy", 516),
    ("cuGraphDestroy", 517),
    ("cuStreamBeginCapture_v2", 539),
    ("cuStreamEndCapture", 497),
    ("cuStreamIsCapturing", 499),
    ("cuThreadExchangeStreamCaptureMode", 541),
    ("cuLaunchKernel", 307),
    ("cuLaunchKernelEx", 652),
];

#[test]
fn callback_ids_are_cuptis() {
    let ids: BTreeMap<&str, u32> = driver_functions().collect();
    for (name, id) in CALLBACK_IDS {
        assert_eq!(ids.get(name), Some(id), "{name}");
    }
}

/// Sizes and offsets against those of 17 CUPTI versions, where the shared data is present.
#[test]
fn layouts_agree_with_cupti() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("../shared/data/cupti_layout.csv");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("ignored: no ../shared/data/cupti_layout.csv beside the checkout");
        return;
    };
    let mut checked = 0;
    let mut versions = BTreeSet::new();
    for line in text.lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        let [kind, _, cupti, _, sizeof, ..] = columns[..] else { panic!("{line}") };
        let Some(layout) = LAYOUTS.iter().find(|layout| layout.name == kind) else { continue };
        assert_eq!(columns[1], layout.kind.to_string(), "{kind}");
        let version = version_of(cupti);
        versions.insert(version);
        assert_eq!(layout.size(version).to_string(), sizeof, "size of {kind} in {cupti}");
        // Field names may hold commas inside nothing: name, offset and size follow the alignment.
        let [field, offset, size] = columns[6..9] else { panic!("{line}") };
        if let Some(ours) = layout.fields.iter().find(|ours| ours.name == field) {
            assert!(ours.since <= version, "{kind}.{field} is in {cupti} already");
            let found = (ours.offset.to_string(), ours.size.to_string());
            assert_eq!(found, (offset.into(), size.into()), "{kind}.{field} in {cupti}");
            checked += 1;
        }
    }
    let fields: usize = LAYOUTS.iter().map(|layout| layout.fields.len()).sum();
    assert!(checked >= fields * 10, "only {checked} fields were compared");
    // The data may hold versions that scenarios cannot ask for, but not the other way round.
    for (name, version, _) in scenario::CUPTI_VERSIONS {
        assert!(versions.contains(version), "no layout data for {name}");
    }
}

fn version_of(cupti: &str) -> u32 {
    let mut parts = cupti.split('.').map(|part| part.parse::<u32>().unwrap());
    parts.next().unwrap() * 100 + parts.next().unwrap()
}

#[test]
fn a_bad_scenario_is_an_error_and_no_crash() {
    let Some(stderr) = refused("a_bad_scenario_is_an_error_and_no_crash", "total = 1\n", || {
        assert_eq!((cu::cuInit(0), cu::cuInit(0)), (802, 802));
        assert!(nvml_wrapper::Nvml::init().is_err());
        let mut count = 0;
        assert_eq!(cu::cuDriverGetVersion(&mut count), 802);
    }) else {
        return;
    };
    let said: Vec<&str> =
        stderr.lines().filter(|line| line.starts_with("memvelope-sim:")).collect();
    assert_eq!(said.len(), 1, "{stderr}");
    assert!(said[0].contains("scenario.toml") && stderr.contains("total"), "{stderr}");
}

#[test]
fn init_fails_as_the_scenario_says() {
    let Some(_) = in_child("init_fails_as_the_scenario_says", "init_code = 100\n", || {
        assert_eq!(cu::cuInit(0), 100);
    }) else {
        return;
    };
    let Some(_) = in_child("init_fails_as_the_scenario_says", "devices = []\n", || {
        assert_eq!(cu::cuInit(0), 100);
    }) else {
        return;
    };
}

/// The example in the documentation is a scenario, and names every key there is.
#[test]
fn the_documented_example_works() {
    let text = include_str!("../SCENARIO.md");
    let example = text.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let read = scenario::Scenario::from_toml(example).unwrap();
    assert_eq!(read.devices.len(), 2);
    let sources = [
        include_str!("../src/scenario/mod.rs"),
        include_str!("../src/scenario/cupti.rs"),
        include_str!("../src/scenario/device.rs"),
    ];
    let keys = sources.iter().flat_map(|source| source.lines()).filter_map(|line| {
        let field = line.strip_prefix("    pub ")?;
        let is_key = !field.starts_with("fn") && !field.starts_with("use");
        is_key.then(|| field.split(':').next().unwrap())
    });
    for key in keys {
        let is_named = |line: &str| line.contains(key);
        assert!(example.lines().any(is_named), "SCENARIO.md's example lacks {key}");
    }
}

#[test]
fn books_can_be_read_at_run_time() {
    let Some(_) = in_child("books_can_be_read_at_run_time", "", || {
        // SAFETY: the exported signatures.
        unsafe {
            let library = libloading::Library::new("libcuda.so.1").unwrap();
            let version: libloading::Symbol<'_, extern "C" fn() -> *const std::ffi::c_char> =
                library.get(b"memvelope_sim_version").unwrap();
            let version = std::ffi::CStr::from_ptr(version()).to_str().unwrap();
            assert!(version.starts_with("memvelope-sim "));
            let books: libloading::Symbol<'_, extern "C" fn(*mut u8, usize) -> usize> =
                library.get(b"memvelope_sim_books").unwrap();
            assert_eq!(books(std::ptr::null_mut(), 0), 0, "nothing was simulated yet");
            common::context();
            let mut buffer = vec![0; books(std::ptr::null_mut(), 0)];
            assert_eq!(books(buffer.as_mut_ptr(), buffer.len()), buffer.len());
            let read: serde_json::Value = serde_json::from_slice(&buffer).unwrap();
            assert_eq!(read["simulator"], serde_json::json!(version));
        }
    }) else {
        return;
    };
}

#[test]
fn a_forked_child_has_no_driver_and_writes_no_books() {
    let Some(books) = in_child("a_forked_child_has_no_driver_and_writes_no_books", "", || {
        common::context();
        // SAFETY: the child calls the simulator and leaves; it takes no lock of the test harness.
        let status = unsafe {
            let child = libc::fork();
            if child == 0 {
                let codes = (cu::cuInit(0), cu::cuMemAlloc_v2(&mut 0, 1));
                // Runs the exit handlers, as a program that forks and returns would.
                libc::exit(i32::from(codes != (3, 3)));
            }
            let mut status = -1;
            libc::waitpid(child, &mut status, 0);
            status
        };
        assert_eq!(status, 0);
        common::alloc(4096);
    }) else {
        return;
    };
    assert_eq!(books["devices"][0]["requested_live_bytes"], serde_json::json!(4096));
}
