//! How long does attaching take in a process that has contexts already?

use super::{Bench, head, nanos, settle, start};
use crate::options::Options;
use anyhow::Result;
use cupti_sys::activity_kind;
use gpu_lane_collector::collector;
use gpu_lane_collector::cupti::{check, needed};
use serde_json::{Value, json};
use std::ffi::c_void;
use std::time::Instant;

/// What a recorder switches on beyond the baseline.
const MORE: &[u32] =
    &[activity_kind::SYNCHRONIZATION, activity_kind::OVERHEAD, activity_kind::MEMORY2];

extern "C" fn no_callback(_: *mut c_void, _: u32, _: u32, _: *const c_void) {}

/// `--contexts N`, `--launches N`: contexts and launches before the attachment.
pub(crate) fn attach(options: &Options) -> Result<Value> {
    let (cuda, library) = start()?;
    let mut benches = vec![Bench::open(cuda, options)?];
    let contexts = options.number("contexts", 1)?;
    for _ in 1..contexts {
        benches.push(Bench::of(benches[0].gpu.another()?, options)?);
    }
    for bench in &benches {
        bench.gpu.enter()?;
        bench.launches(options.number("launches", 1000)?)?;
    }
    let mut found = head(cuda, library);
    let mut steps = Vec::new();
    let mut step = |name: String, action: &mut dyn FnMut() -> Result<()>| {
        let begin = Instant::now();
        let outcome = action();
        steps.push(json!({ "step": name, "ns": nanos(begin), "outcome": super::said(outcome) }));
    };
    let mut subscriber = std::ptr::null_mut();
    step("subscribe".into(), &mut || {
        let subscribe = needed(library.cupti.subscribe)?;
        // SAFETY: an out-pointer to a local, and a function of this program.
        check("cuptiSubscribe", unsafe {
            subscribe(&raw mut subscriber, Some(no_callback), std::ptr::null_mut())
        })
    });
    step("register".into(), &mut || collector::register(library, None));
    let kinds = || collector::KINDS.iter().chain(MORE);
    for turn in ["first", "second"] {
        for kind in kinds() {
            let name = activity_kind::name(*kind).unwrap_or("UNKNOWN");
            step(format!("{turn}: enable {name}"), &mut || library.enable(*kind));
        }
        for thousand in 0..2 {
            step(format!("{turn}: launches {thousand}"), &mut || benches[0].launches(1000));
        }
        step(format!("{turn}: flush"), &mut || settle(library));
        for kind in kinds() {
            let name = activity_kind::name(*kind).unwrap_or("UNKNOWN");
            step(format!("{turn}: disable {name}"), &mut || library.disable(*kind));
        }
        step(format!("{turn}: launches after"), &mut || benches[0].launches(1000));
    }
    step("unsubscribe".into(), &mut || {
        // SAFETY: the handle that CUPTI gave, once.
        check("cuptiUnsubscribe", unsafe { needed(library.cupti.unsubscribe)?(subscriber) })
    });
    step("launches at last".into(), &mut || benches[0].launches(1000));
    found["contexts"] = contexts.into();
    found["steps"] = steps.into();
    found["collected"] = collector::counts();
    Ok(found)
}
