//! The container's view of host RAM: cgroup v2, then v1.

use crate::event::Event;

/// Reads limit, current, peak and OOM kills of this process's cgroup as a
/// [`crate::event::Body::HostMemory`] event; `None` where there is no memory controller.
pub fn memory() -> Option<Event> {
    todo!()
}
