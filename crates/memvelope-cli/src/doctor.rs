//! `memvelope doctor`: what of this machine memvelope can use, and what to do about the rest.

use crate::failure::{Failure, Outcome};
use crate::output;
use crate::sim_exec::{self, Choice};
use anyhow::Context;
use memvelope::runtime::Mode;
use memvelope::runtime::doctor::{self, Device, Findings, Health};
use memvelope::source::loader::{LoadReport, Outcome as Loading};
use memvelope::units::Bytes;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
    /// Examine this device's driver (`sim`: the simulated one) instead of whatever is there.
    #[arg(long, value_name = "auto|sim|ORDINAL|UUID")]
    device: Option<Choice>,
    /// Scenario of the simulated driver (TOML).
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Outcome<ExitCode> {
    if let Some(choice) = &args.device {
        match (choice, sim_exec::settle(choice, args.scenario.as_deref())) {
            // No driver, or one that does not work, is what a report is for.
            (Choice::Ordinal(_) | Choice::Uuid(_), Err(Failure::Failed(_))) => {}
            (_, settled) => drop(settled?),
        }
    } else if args.scenario.is_some() && !sim_exec::is_re_executed() {
        return Err(Failure::bad(
            "--scenario describes the simulated driver\nhint: use it with --device sim",
        ));
    }
    let findings = doctor::examine()?;
    if args.json {
        let json = serde_json::to_string_pretty(&findings).context("writing JSON failed")?;
        output::print(&format!("{json}\n"))?;
    } else {
        output::print(&text(&findings))?;
    }
    Ok(match findings.health {
        Health::Usable => ExitCode::SUCCESS,
        Health::Degraded => ExitCode::from(1),
        Health::Unusable => ExitCode::from(2),
    })
}

fn text(findings: &Findings) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = write_text(&mut out, findings);
    out
}

fn write_text(out: &mut String, findings: &Findings) -> std::fmt::Result {
    if findings.simulated {
        writeln!(out, "SIMULATED: this is memvelope's simulated driver, not a GPU.\n")?;
    }
    let health = match findings.health {
        Health::Usable => "usable: allocations, kernels, copies and waits are recorded",
        Health::Degraded => "degraded: memvelope works, but does not see everything",
        Health::Unusable => {
            "unusable: no driver with a device; planning and a gate on a declared budget still work"
        }
    };
    writeln!(out, "memvelope {}: {health}", findings.memvelope_version)?;
    for problem in &findings.problems {
        writeln!(out, "  - {}", problem.replace('\n', "\n    "))?;
    }
    write_libraries(out, &findings.libraries)?;
    let cuda = findings.cuda_version.map(|v| format!("{}.{}", v / 1000, v % 1000 / 10));
    writeln!(out, "\nversions")?;
    writeln!(out, "  CUDA of the driver  {}", cuda.as_deref().unwrap_or("absent"))?;
    writeln!(
        out,
        "  driver              {}",
        findings.driver_version.as_deref().unwrap_or("absent")
    )?;
    write_mode(out, &findings.mode)?;
    write_devices(out, &findings.devices)?;
    write_host(out, findings)?;
    writeln!(out, "\nkeys (environment)")?;
    for key in &findings.keys {
        let value = key.value.as_deref().unwrap_or("-");
        writeln!(out, "  {:<32} {value}  (default {}, {})", key.name, key.default, key.unit)?;
    }
    Ok(())
}

fn write_libraries(out: &mut String, libraries: &[LoadReport]) -> std::fmt::Result {
    writeln!(out, "\nlibraries")?;
    for report in libraries {
        let version = report.version.as_deref().unwrap_or("version absent");
        let simulated = if report.simulated { ", SIMULATED" } else { "" };
        match &report.chosen {
            Some(path) => writeln!(out, "  {}: {path} ({version}{simulated})", report.library)?,
            None => writeln!(out, "  {}: none", report.library)?,
        }
        for candidate in &report.candidates {
            let outcome = match &candidate.outcome {
                Loading::Loaded => "in use".to_owned(),
                Loading::Failed(why) => format!("failed: {why}"),
                Loading::Skipped(why) => format!("not tried: {why}"),
            };
            writeln!(out, "    {}: {outcome}", candidate.path)?;
        }
        if !report.missing_symbols.is_empty() {
            writeln!(out, "    lacks {}", report.missing_symbols.join(", "))?;
        }
        if !report.hint.is_empty() {
            writeln!(out, "    hint: {}", report.hint)?;
        }
    }
    Ok(())
}

fn write_mode(out: &mut String, mode: &Mode) -> std::fmt::Result {
    writeln!(out, "\ncapabilities")?;
    match mode {
        Mode::Cupti(coverage) => {
            writeln!(out, "  recording through CUPTI (API version {})", coverage.cupti_version)?;
            writeln!(out, "  activity kinds: {}", coverage.kinds.join(", "))?;
            let callbacks = if coverage.callbacks { "yes" } else { "no" };
            writeln!(out, "  allocation callbacks: {callbacks}")
        }
        // Why, the problems above say.
        Mode::Polling(_) => writeln!(out, "  polling only"),
        Mode::Blind(_) => writeln!(out, "  nothing is recorded"),
    }
}

fn write_devices(out: &mut String, devices: &[Device]) -> std::fmt::Result {
    writeln!(out, "\ndevices")?;
    if devices.is_empty() {
        writeln!(out, "  none")?;
    }
    for device in devices {
        let info = &device.info;
        let (major, minor) = info.compute_capability;
        writeln!(
            out,
            "  {} {} ({}), compute capability {major}.{minor}, total {}",
            info.index.0, info.name, info.uuid, info.total_bytes
        )?;
        let shown = |bytes: Option<Bytes>| bytes.map_or("absent".into(), |b| b.to_string());
        let busy = device.utilization_percent.map_or("absent".into(), |p| format!("{p} %"));
        writeln!(
            out,
            "    free {}, used by all {}, used by this process {}, utilisation {busy}",
            shown(device.free_bytes),
            shown(device.nvml_used_bytes),
            shown(device.process_used_bytes),
        )?;
    }
    Ok(())
}

fn write_host(out: &mut String, findings: &Findings) -> std::fmt::Result {
    writeln!(out, "\nhost")?;
    match &findings.host {
        Some(host) => {
            let limit = host.limit_bytes.map_or("none".into(), |bytes| bytes.to_string());
            let peak = host.peak_bytes.map_or("absent".into(), |bytes| bytes.to_string());
            writeln!(
                out,
                "  cgroup memory: limit {limit}, current {}, peak {peak}, OOM kills {}",
                host.current_bytes, host.oom_kills
            )?;
        }
        None => writeln!(out, "  cgroup memory: absent (no memory controller)")?,
    }
    let yes_no = |known: Option<bool>| known.map_or("absent", |yes| if yes { "yes" } else { "no" });
    let rights = &findings.privileges;
    writeln!(
        out,
        "  uid {}, CAP_SYS_ADMIN {}, CAP_PERFMON {}, counters for administrators only: {}",
        rights.user_id.map_or("absent".into(), |uid| uid.to_string()),
        yes_no(rights.cap_sys_admin),
        yes_no(rights.cap_perfmon),
        yes_no(rights.counters_admin_only)
    )?;
    writeln!(
        out,
        "  container {}, host process ids {}, WSL {}",
        rights.container.unwrap_or("none seen"),
        yes_no(rights.host_pids),
        yes_no(Some(rights.wsl))
    )?;
    for (name, value) in [
        ("CUDA_VISIBLE_DEVICES", &rights.visible_devices),
        ("CUDA_INJECTION64_PATH", &rights.injection),
    ] {
        if let Some(value) = value {
            writeln!(out, "  {name}={value}")?;
        }
    }
    for tool in &rights.other_tools {
        writeln!(out, "  also loaded: {tool}, which may hold CUPTI's only subscription")?;
    }
    for limit in &findings.limits {
        writeln!(out, "  {}: {} {}", limit.name, limit.soft, limit.unit)?;
    }
    Ok(())
}
