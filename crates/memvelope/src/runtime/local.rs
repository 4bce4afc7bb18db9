//! How far kernels have raised the local memory of their contexts, as their records tell: a witness
//! of growth that no call of the program stands for. What of it is believed, `lazy` says.

use crate::event::{DeviceIndex, Kernel};
use std::collections::VecDeque;

/// Contexts that are told apart; past it the oldest is forgotten, and what its kernels raised is
/// unaccounted for.
const CONTEXTS: usize = 64;

/// Stack that a thread has by default (`CU_LIMIT_STACK_SIZE`), in bytes: a new context has local
/// memory for it, which is measured when it is made.
const STACK_BYTES: u64 = 1 << 10;

/// What kernels' records tell of local memory, by context.
#[derive(Debug, Default)]
pub(super) struct LocalMemory(VecDeque<Known>);

#[derive(Debug)]
struct Known {
    device: DeviceIndex,
    context: u32,
    /// The most it was seen to have.
    highest: u64,
    /// By how much that was raised since somebody looked.
    raised: u64,
}

/// By how much local memory was raised on a device since the last look, at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Raised {
    /// Bytes.
    pub(super) bytes: u64,
    /// CUPTI's id of the context that raised it most.
    pub(super) context: u32,
}

impl LocalMemory {
    /// Takes a kernel.
    pub(super) fn accept(&mut self, kernel: &Kernel) {
        let bytes = kernel.local_bytes.0;
        if bytes == 0 {
            return;
        }
        let is_its = |it: &&mut Known| (it.device, it.context) == (kernel.device, kernel.context);
        if let Some(known) = self.0.iter_mut().find(is_its) {
            let raised = bytes.saturating_sub(known.highest);
            known.raised = known.raised.saturating_add(raised);
            known.highest = known.highest.max(bytes);
            return;
        }
        if self.0.len() >= CONTEXTS {
            self.0.pop_front();
        }
        self.0.push_back(Known {
            device: kernel.device,
            context: kernel.context,
            highest: bytes,
            raised: beyond_stack(bytes, kernel.local_per_thread),
        });
    }

    /// What was raised since the last call.
    pub(super) fn take(&mut self, device: DeviceIndex) -> Raised {
        let of_device = self.0.iter_mut().filter(|known| known.device == device);
        let (mut all, mut most) = (Raised::default(), 0);
        for known in of_device {
            let raised = std::mem::take(&mut known.raised);
            all.bytes = all.bytes.saturating_add(raised);
            if raised > most {
                (most, all.context) = (raised, known.context);
            }
        }
        all
    }
}

/// What the first kernel that is seen of a context proves to be more than a new context has: nothing
/// where the default stack is enough for it. What kernels before it raised is not told.
fn beyond_stack(bytes: u64, per_thread: u32) -> u64 {
    let beyond = u64::from(per_thread).saturating_sub(STACK_BYTES);
    let share = u128::from(bytes) * u128::from(beyond) / u128::from(per_thread.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{NameId, ScopeId};
    use crate::units::{Bytes, Nanos};

    fn kernel(device: u32, context: u32, per_thread: u32, mib: u64) -> Kernel {
        Kernel {
            device: DeviceIndex(device),
            context,
            stream: 7,
            name: NameId(0),
            correlation: 1,
            graph: 0,
            graph_node: 0,
            scope: ScopeId::NONE,
            start: Nanos(1),
            end: Nanos(2),
            grid: [1; 3],
            block: [1; 3],
            local_per_thread: per_thread,
            local_bytes: Bytes(mib << 20),
        }
    }

    /// Kernels as (context, bytes per thread, MiB of the context), and what they raised: context, MiB.
    fn check(kernels: &[(u32, u32, u64)], context: u32, mib: u64) {
        let mut local = LocalMemory::default();
        for (context, per_thread, mib) in kernels {
            local.accept(&kernel(0, *context, *per_thread, *mib));
            local.accept(&kernel(1, *context, *per_thread, *mib));
        }
        let raised = Raised { bytes: mib << 20, context };
        assert_eq!(local.take(DeviceIndex(0)), raised, "{kernels:?}");
        assert_eq!(local.take(DeviceIndex(0)), Raised::default(), "told once");
        assert_eq!(local.take(DeviceIndex(1)), raised, "devices apart");
        assert!(local.0.len() <= CONTEXTS);
    }

    #[test]
    fn what_kernels_raise_is_told_once() {
        check(&[], 0, 0);
        check(&[(1, 0, 0)], 0, 0);
        // The first one: no more than a new context has, or beyond it by three quarters.
        check(&[(1, 0, 264)], 0, 0);
        check(&[(1, 1024, 264)], 0, 0);
        check(&[(1, 4096, 1056)], 1, 792);
        // Later ones by what they add.
        check(&[(1, 0, 264), (1, 4096, 1056), (1, 0, 1056)], 1, 792);
        check(&[(1, 4096, 1056), (1, 8192, 2112)], 1, 792 + 1056);
        // Two contexts, on each of two devices.
        check(&[(1, 0, 264), (2, 0, 264), (1, 0, 265), (2, 0, 274)], 2, 11);
        let many: Vec<_> = (0..1000).map(|context| (context, 2048, 2)).collect();
        check(&many, 968, CONTEXTS as u64 / 2);
    }

    #[test]
    fn numbers_that_cannot_be_are_held() {
        assert_eq!(
            beyond_stack(u64::MAX, u32::MAX),
            u64::MAX - (u64::MAX / u64::from(u32::MAX) * 1024)
        );
        let mut local = LocalMemory::default();
        let all = Kernel { local_bytes: Bytes(u64::MAX), ..kernel(0, 1, u32::MAX, 0) };
        local.accept(&all);
        local.accept(&Kernel { context: 2, ..all });
        assert_eq!(local.take(DeviceIndex(0)).bytes, u64::MAX);
    }
}
