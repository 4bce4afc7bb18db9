//! The container's view of host RAM: cgroup v2, then v1.

use crate::event::{Body, Event, SeenBy};
use crate::source::clock;
use crate::units::Bytes;
use std::path::{Path, PathBuf};

/// Reads limit, current, peak and OOM kills of this process's cgroup as a
/// [`crate::event::Body::HostMemory`] event; `None` where there is no memory controller.
///
/// Of a nested hierarchy it reports the level whose limit binds first: the smallest limit among
/// the cgroup and its ancestors, together with that level's own use.
#[must_use]
pub fn memory() -> Option<Event> {
    read(Path::new("/")).map(|level| Event {
        time: clock::now(),
        seen_by: SeenBy::Poll,
        body: Body::HostMemory {
            limit: level.limit.map(Bytes),
            current: Bytes(level.current),
            peak: level.peak.map(Bytes),
            oom_kills: level.oom_kills,
        },
    })
}

/// One level of the hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Level {
    limit: Option<u64>,
    current: u64,
    peak: Option<u64>,
    oom_kills: u64,
}

/// The files of one cgroup version.
struct Layout {
    mount: &'static str,
    limit: &'static str,
    current: &'static str,
    peak: &'static str,
    events: &'static str,
}

const V2: Layout = Layout {
    mount: "sys/fs/cgroup",
    limit: "memory.max",
    current: "memory.current",
    peak: "memory.peak",
    events: "memory.events",
};

const V1: Layout = Layout {
    mount: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    current: "memory.usage_in_bytes",
    peak: "memory.max_usage_in_bytes",
    events: "memory.oom_control",
};

/// v1 writes "no limit" as the largest page-aligned number; nothing real is above 4 EiB.
const V1_NO_LIMIT_FROM: u64 = 1 << 62;

/// `root` stands for `/`, so that tests can build a file system of their own.
fn read(root: &Path) -> Option<Level> {
    let own = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let v2 = own.lines().find_map(|line| line.strip_prefix("0::"));
    let v1 = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        controllers.split(',').any(|name| name == "memory").then(|| fields.next())?
    });
    // On a hybrid host the unified hierarchy exists without the memory controller: then v1 has it.
    v2.and_then(|path| V2.read(root, path)).or_else(|| v1.and_then(|path| V1.read(root, path)))
}

impl Layout {
    fn read(&self, root: &Path, own: &str) -> Option<Level> {
        let mount = root.join(self.mount);
        self.binding_level(&mount, &mount.join(own.trim().trim_start_matches('/')))
            // Without a cgroup namespace of its own a container sees the host's path, under a
            // mount that begins at the container: its own group is then the mount itself.
            .or_else(|| self.binding_level(&mount, &mount))
    }

    fn binding_level(&self, mount: &Path, own: &Path) -> Option<Level> {
        let mut binding = self.level(own)?;
        let mut directory: PathBuf = own.to_path_buf();
        while directory != *mount && directory.pop() && directory.starts_with(mount) {
            let Some(level) = self.level(&directory) else { continue };
            if level.limit.unwrap_or(u64::MAX) < binding.limit.unwrap_or(u64::MAX) {
                binding = level;
            }
        }
        Some(binding)
    }

    fn level(&self, directory: &Path) -> Option<Level> {
        let number = |name: &str| text(directory, name)?.trim().parse::<u64>().ok();
        Some(Level {
            current: number(self.current)?,
            limit: number(self.limit).filter(|limit| *limit < V1_NO_LIMIT_FROM),
            peak: number(self.peak),
            oom_kills: text(directory, self.events)
                .and_then(|text| {
                    text.lines()
                        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
                })
                .unwrap_or(0),
        })
    }
}

fn text(directory: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(directory.join(name)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)], expect: Option<Level>) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        assert_eq!(read(root.path()), expect, "{files:?}");
    }

    #[test]
    fn v2_in_a_container() {
        check(
            &[
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/memory.max", "1073741824\n"),
                ("sys/fs/cgroup/memory.current", "4096\n"),
                ("sys/fs/cgroup/memory.peak", "8192\n"),
                ("sys/fs/cgroup/memory.events", "low 0\nmax 3\noom 2\noom_kill 1\n"),
            ],
            Some(Level { limit: Some(1 << 30), current: 4096, peak: Some(8192), oom_kills: 1 }),
        );
    }

    #[test]
    fn v2_reports_the_level_that_binds() {
        check(
            &[
                ("proc/self/cgroup", "0::/pod/app\n"),
                ("sys/fs/cgroup/pod/memory.max", "500\n"),
                ("sys/fs/cgroup/pod/memory.current", "400\n"),
                ("sys/fs/cgroup/pod/app/memory.max", "max\n"),
                ("sys/fs/cgroup/pod/app/memory.current", "300\n"),
            ],
            Some(Level { limit: Some(500), current: 400, peak: None, oom_kills: 0 }),
        );
    }

    #[test]
    fn v2_without_a_limit_and_v2_with_the_hosts_path() {
        check(
            &[
                ("proc/self/cgroup", "0::/gone/from/here\n"),
                ("sys/fs/cgroup/memory.max", "max\n"),
                ("sys/fs/cgroup/memory.current", "7\n"),
            ],
            Some(Level { limit: None, current: 7, peak: None, oom_kills: 0 }),
        );
    }

    #[test]
    fn v1_and_hybrid() {
        check(
            &[
                ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/docker/abc\n"),
                ("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "9223372036854771712\n"),
                ("sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "10\n"),
                ("sys/fs/cgroup/memory/docker/abc/memory.max_usage_in_bytes", "20\n"),
                ("sys/fs/cgroup/memory/docker/abc/memory.oom_control", "under_oom 0\noom_kill 4\n"),
            ],
            Some(Level { limit: None, current: 10, peak: Some(20), oom_kills: 4 }),
        );
    }

    #[test]
    fn nothing_and_garbage_are_none() {
        check(&[], None);
        check(&[("proc/self/cgroup", "\u{0}::not a cgroup file")], None);
        check(&[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.current", "many\n")], None);
    }
}
