//! Whose work a kernel is, from the launch to the reader: what a session's summary and its trace say.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "sim/mod.rs"]
#[allow(dead_code, reason = "shared; each test file uses a part of it")]
#[expect(unsafe_code, reason = "a host program calls the driver's C functions")]
mod sim;

use memvelope::config::Config;
use memvelope::runtime::Session;
use serde_json::Value;
use sim::{PTX, cu, in_child};
use std::collections::BTreeMap;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const ID: &str = "0af7651916cd43dd8448eb211c80319c";

fn kernel() -> u64 {
    let (mut context, mut module, mut function) = (0, 0, 0);
    assert_eq!(cu::cuDevicePrimaryCtxRetain(&mut context, 0), 0);
    assert_eq!(cu::cuCtxSetCurrent(context), 0);
    assert_eq!(cu::cuModuleLoadData(&mut module, PTX.as_ptr()), 0);
    assert_eq!(cu::cuModuleGetFunction(&mut function, module, c"idle".as_ptr()), 0);
    function
}

fn launch(function: u64, times: u32) {
    let null = std::ptr::null_mut();
    for _ in 0..times {
        assert_eq!(cu::cuLaunchKernel(function, 1, 1, 1, 64, 1, 1, 0, 0, null, null), 0);
    }
}

fn trace_of(session: &Session) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trace.json");
    session.write_trace(&path, 1 << 20).unwrap();
    serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap()
}

#[test]
fn summary_and_trace_say_whose_work_a_kernel_is() {
    in_child("summary_and_trace_say_whose_work_a_kernel_is", "", || {
        let session = Session::start(&Config::default()).unwrap();
        let function = kernel();
        let traced = session.scope("request", ID.parse().ok());
        launch(function, 3);
        drop(traced);
        let untraced = session.scope("step", None);
        launch(function, 2);
        drop(untraced);
        launch(function, 1);
        assert_eq!(cu::cuCtxSynchronize(), 0);
        let last = session.stop(SOON).unwrap();

        let summary = serde_json::to_value(&last.timeline).unwrap();
        let rows = summary["scopes"].as_array().unwrap().iter();
        let kernels = |row: &Value| row["kernels"]["count"].as_u64().unwrap();
        let by_scope: BTreeMap<_, _> =
            rows.map(|row| (row["name"].as_str().unwrap(), kernels(row))).collect();
        assert_eq!(by_scope, [("request", 3), ("step", 2)].into());

        let rows = summary["spans"].as_array().unwrap().iter();
        let spans: BTreeMap<_, _> =
            rows.map(|row| (row["name"].as_str().unwrap(), row["count"].as_u64())).collect();
        assert_eq!(spans, [("request", Some(1)), ("step", Some(1))].into());

        let trace = trace_of(&session);
        let events = trace["traceEvents"].as_array().unwrap();
        let args = |category: &str, key: &str| -> Vec<Value> {
            let events = events.iter().filter(|event| event["cat"] == category);
            events.map(|event| event["args"][key].clone()).collect()
        };
        let (request, step, id) = (Value::from("request"), Value::from("step"), Value::from(ID));
        let none = || Value::Null;
        let scopes = [&request, &request, &request, &step, &step, &none()].map(Value::clone);
        assert_eq!(args("kernel", "scope"), scopes);
        let ids = [id.clone(), id.clone(), id.clone(), none(), none(), none()];
        assert_eq!(args("kernel", "trace_id"), ids);
        assert_eq!(args("span", "trace_id"), [id, none()]);
    });
}
