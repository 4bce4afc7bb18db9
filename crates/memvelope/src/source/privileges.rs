//! What this process may do and where it runs: what `memvelope doctor` says beyond the libraries.

use serde::Serialize;
use std::path::Path;

/// Facts about the process. `None` is "could not be found out", never "no".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Privileges {
    /// Effective user id.
    pub user_id: Option<u32>,
    /// `CAP_SYS_ADMIN` is effective.
    pub cap_sys_admin: Option<bool>,
    /// `CAP_PERFMON` is effective.
    pub cap_perfmon: Option<bool>,
    /// The kernel module lets only administrators read performance counters
    /// (`RmProfilingAdminOnly`). Tracing, which is all we do, works for everybody.
    pub counters_admin_only: Option<bool>,
    /// The kind of container, as far as its traces in the file system tell.
    pub container: Option<&'static str>,
    /// Whether process ids are the host's own. Where not, NVML does not list this process.
    pub host_pids: Option<bool>,
    /// Microsoft's WSL2, where the driver is a shim.
    pub wsl: bool,
    /// Tools that are already loaded and may hold CUPTI's only subscription.
    pub other_tools: Vec<String>,
    /// `CUDA_VISIBLE_DEVICES`, if set.
    pub visible_devices: Option<String>,
    /// `CUDA_INJECTION64_PATH`, if set: the driver loads that library when it initialises.
    pub injection: Option<String>,
}

/// Libraries that subscribe to CUPTI, by the beginning of their file names.
const CUPTI_TOOLS: [(&str, &str); 5] = [
    ("libToolsInjection", "Nsight Systems"),
    ("libcuda-injection", "Nsight Compute"),
    ("libsanitizer", "Compute Sanitizer"),
    ("libparcagpu", "parcagpu"),
    ("libtorch_cuda", "PyTorch (its profiler, Kineto, uses CUPTI while it runs)"),
];

const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;

/// The kernel's fixed inode number of the initial PID namespace (`PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Looks at this process. Reads a few files under `/proc`; calls no foreign library.
#[must_use]
pub fn report() -> Privileges {
    Privileges {
        other_tools: other_tools(),
        visible_devices: std::env::var("CUDA_VISIBLE_DEVICES").ok(),
        injection: std::env::var("CUDA_INJECTION64_PATH").ok(),
        ..read(Path::new("/"))
    }
}

/// Whether process ids mean the same to us as to the kernel module.
pub(crate) fn in_initial_pid_namespace() -> bool {
    host_pids(Path::new("/")) == Some(true)
}

fn host_pids(root: &Path) -> Option<bool> {
    let link = std::fs::read_link(root.join("proc/self/ns/pid")).ok()?;
    Some(link.as_os_str() == INITIAL_PID_NAMESPACE)
}

/// `root` stands for `/`, so that tests can build a file system of their own.
fn read(root: &Path) -> Privileges {
    let text = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let status = text("proc/self/status").unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let capabilities = field("CapEff:").and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let has = |bit: u32| capabilities.map(|set| set >> bit & 1 == 1);
    Privileges {
        user_id: field("Uid:").and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok()),
        cap_sys_admin: has(CAP_SYS_ADMIN),
        cap_perfmon: has(CAP_PERFMON),
        counters_admin_only: text("proc/driver/nvidia/params").and_then(|text| {
            let value = text.lines().find_map(|line| line.strip_prefix("RmProfilingAdminOnly:"))?;
            Some(value.trim() != "0")
        }),
        container: container(root),
        host_pids: host_pids(root),
        wsl: text("proc/version").is_some_and(|text| text.to_lowercase().contains("microsoft")),
        ..Privileges::default()
    }
}

fn container(root: &Path) -> Option<&'static str> {
    let marks = [
        ("var/run/secrets/kubernetes.io", "kubernetes"),
        (".dockerenv", "docker"),
        ("run/.containerenv", "podman"),
        ("singularity", "apptainer"),
    ];
    marks.iter().find(|(path, _)| root.join(path).exists()).map(|(_, name)| *name)
}

/// Tools among the loaded objects that use CUPTI themselves.
pub(crate) fn other_tools() -> Vec<String> {
    let objects = super::loader::loaded_objects();
    let names = objects.iter().filter_map(|path| Path::new(path).file_name()?.to_str());
    let mut tools: Vec<String> = names
        .filter_map(|name| CUPTI_TOOLS.iter().find(|(prefix, _)| name.starts_with(prefix)))
        .map(|(_, tool)| (*tool).to_owned())
        .collect();
    tools.dedup();
    tools
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)], expect: &Privileges) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        assert_eq!(&read(root.path()), expect, "{files:?}");
    }

    #[test]
    fn nothing_readable_is_nothing_known() {
        check(&[], &Privileges::default());
        check(&[("proc/self/status", "CapEff: what\nUid:\n")], &Privileges::default());
    }

    #[test]
    fn an_unprivileged_process_in_docker() {
        let status = "Name:\tx\nUid:\t1000\t1001\t1000\t1000\nCapEff:\t0000000000000000\n";
        check(
            &[
                ("proc/self/status", status),
                ("proc/driver/nvidia/params", "ResmanDebugLevel: 1\nRmProfilingAdminOnly: 1\n"),
                (".dockerenv", ""),
            ],
            &Privileges {
                user_id: Some(1001),
                cap_sys_admin: Some(false),
                cap_perfmon: Some(false),
                counters_admin_only: Some(true),
                container: Some("docker"),
                ..Privileges::default()
            },
        );
    }

    #[test]
    fn root_on_wsl() {
        let status = "Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n";
        check(
            &[("proc/self/status", status), ("proc/version", "Linux 5.15-microsoft-standard")],
            &Privileges {
                user_id: Some(0),
                cap_sys_admin: Some(true),
                cap_perfmon: Some(true),
                wsl: true,
                ..Privileges::default()
            },
        );
    }
}
