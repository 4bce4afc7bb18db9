//! The GPUs of a scenario, and the other processes on them.

use super::MIB;
use serde::Deserialize;

/// One GPU.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Device {
    /// Marketing name.
    pub name: String,
    /// `GPU-` (of a MIG slice: `MIG-`) and a UUID; made from the ordinal when absent.
    pub uuid: Option<String>,
    /// Bytes that `cuDeviceTotalMem` and NVML report.
    pub total_bytes: u64,
    /// Physical page size.
    pub page_bytes: u64,
    /// Allocations up to this size share pages; 0 gives every allocation pages of its own.
    pub small_bytes: u64,
    /// What one context takes.
    pub context_bytes: u64,
    /// What the driver keeps for itself from the start and attributes to nobody.
    pub hidden_bytes: u64,
    /// What it keeps later; the last step whose time has come counts, or as much of it as is free.
    pub hidden_steps: Vec<Step>,
    /// What NVML calls reserved: in its total, and in nobody's used bytes. The driver's own total
    /// is without it.
    pub reserved_bytes: u64,
    /// What one loaded module adds to its context.
    pub module_bytes: u64,
    /// What the first launch of a kernel of a module adds to its context.
    pub lazy_module_bytes: u64,
    /// Threads for which a context keeps local memory: so many times what the stack limit, or a
    /// launched kernel, takes above the default of 1,024 bytes. 0: local memory is not accounted.
    pub local_memory_threads: u64,
    /// Whether the limits of the printf buffer and the heap take memory, above their defaults and in
    /// whole pages, at once.
    pub limits_take_memory: bool,
    /// The UUID of the GPU that this device is a MIG slice of; its own then begins with `MIG-`.
    pub mig_of: Option<String>,
    /// What NVML says that GPU has; 0: twice its slices.
    pub mig_parent_bytes: u64,
    /// Whether it shares the host's memory, so that NVML knows nothing of it.
    pub unified_memory: bool,
    /// A memory pool grows by multiples of this.
    pub pool_chunk_bytes: u64,
    /// Compute capability, major and minor.
    pub compute_capability: (i32, i32),
    /// Streaming multiprocessors.
    pub multiprocessors: i32,
    /// Whether stream-ordered allocation is supported.
    pub memory_pools: bool,
    /// Other processes on this GPU.
    pub co_tenants: Vec<CoTenant>,
}

/// Another process.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoTenant {
    /// Its process id, as NVML lists it.
    pub pid: u32,
    /// What it holds at the start.
    pub bytes: u64,
    /// Whether NVML can tell what it holds.
    #[serde(default = "yes")]
    pub memory_known: bool,
    /// What it holds later; the last step whose time has come counts.
    #[serde(default)]
    pub steps: Vec<Step>,
}

fn yes() -> bool {
    true
}

/// A change of what a co-tenant or the driver holds.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Nanoseconds after `start_ns`.
    pub after_ns: u64,
    /// What it holds from then on, or as much of it as is free.
    pub bytes: u64,
}

impl Default for Device {
    fn default() -> Self {
        Self {
            name: "SIMULATED GPU".into(),
            uuid: None,
            total_bytes: 80 << 30,
            page_bytes: 2 * MIB,
            small_bytes: MIB,
            context_bytes: 480 * MIB,
            hidden_bytes: 96 * MIB,
            hidden_steps: Vec::new(),
            reserved_bytes: 0,
            module_bytes: 0,
            lazy_module_bytes: 0,
            local_memory_threads: 0,
            limits_take_memory: false,
            mig_of: None,
            mig_parent_bytes: 0,
            unified_memory: false,
            pool_chunk_bytes: 32 * MIB,
            compute_capability: (9, 0),
            multiprocessors: 132,
            memory_pools: true,
            co_tenants: Vec::new(),
        }
    }
}

impl Device {
    fn uuid_prefix(&self) -> &'static str {
        if self.mig_of.is_some() { "MIG-" } else { "GPU-" }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if !self.page_bytes.is_power_of_two() || self.page_bytes < 4096 {
            return Err(format!("page_bytes = {}: a power of two from 4096 up", self.page_bytes));
        }
        if self.small_bytes > self.page_bytes {
            return Err(format!("small_bytes = {}: at most page_bytes", self.small_bytes));
        }
        if self.pool_chunk_bytes == 0 || !self.pool_chunk_bytes.is_multiple_of(self.page_bytes) {
            return Err(format!(
                "pool_chunk_bytes = {}: a multiple of page_bytes",
                self.pool_chunk_bytes
            ));
        }
        let tenants = self.co_tenants.iter().fold(0, |sum: u64, t| sum.saturating_add(t.bytes));
        let sorted = |tenant: &CoTenant| tenant.steps.is_sorted_by_key(|step| step.after_ns);
        if !self.co_tenants.iter().all(sorted) {
            return Err("co_tenants.steps: in the order of after_ns".into());
        }
        if !self.hidden_steps.is_sorted_by_key(|step| step.after_ns) {
            return Err("hidden_steps: in the order of after_ns".into());
        }
        let fixed = [self.context_bytes, self.hidden_bytes, self.reserved_bytes, tenants]
            .into_iter()
            .fold(0, u64::saturating_add);
        if fixed > self.total_bytes {
            return Err(format!(
                "total_bytes = {}: less than context, hidden, reserved and co-tenant bytes \
                 ({fixed})",
                self.total_bytes
            ));
        }
        if let Some(uuid) = &self.uuid {
            let prefix = self.uuid_prefix();
            parse_uuid(prefix, uuid)
                .ok_or_else(|| format!("uuid = {uuid:?}: {prefix} and 32 hex digits"))?;
        }
        if let Some(uuid) = &self.mig_of {
            parse_uuid("GPU-", uuid)
                .ok_or_else(|| format!("mig_of = {uuid:?}: GPU- and 32 hex digits"))?;
        }
        Ok(())
    }

    /// The UUID's text and bytes.
    #[must_use]
    pub fn uuid(&self, ordinal: usize) -> (String, [u8; 16]) {
        if let Some(uuid) = &self.uuid
            && let Some(bytes) = parse_uuid(self.uuid_prefix(), uuid)
        {
            return (uuid.clone(), bytes);
        }
        let prefix = self.uuid_prefix();
        let made = format!("{prefix}51510000-0000-4000-8000-{ordinal:012x}");
        let bytes = parse_uuid(prefix, &made).unwrap_or_default();
        (made, bytes)
    }

    /// The bytes of the UUID of the whole GPU: of a MIG slice, its parent's.
    #[must_use]
    pub fn whole_uuid(&self, ordinal: usize) -> [u8; 16] {
        let parent = self.mig_of.as_ref().and_then(|uuid| parse_uuid("GPU-", uuid));
        parent.unwrap_or_else(|| self.uuid(ordinal).1)
    }
}

/// Slices of one GPU fit into it.
pub(super) fn check_slices(devices: &[Device]) -> Result<(), String> {
    for (i, slice) in devices.iter().enumerate() {
        let together = slices(devices, slice).map(|slice| slice.total_bytes);
        let sum = together.fold(0, u64::saturating_add);
        if slice.mig_parent_bytes != 0 && slice.mig_parent_bytes < sum {
            let bytes = slice.mig_parent_bytes;
            return Err(format!("devices[{i}].mig_parent_bytes = {bytes}: its slices have {sum}"));
        }
    }
    Ok(())
}

/// The slices of the GPU that `slice` is one of.
pub(crate) fn slices<'a>(
    devices: &'a [Device],
    slice: &Device,
) -> impl Iterator<Item = &'a Device> {
    let parent = slice.mig_of.clone();
    devices.iter().filter(move |device| parent.is_some() && device.mig_of == parent)
}

/// The bytes of a UUID's text.
fn parse_uuid(prefix: &str, text: &str) -> Option<[u8; 16]> {
    let hex: String = text.strip_prefix(prefix)?.chars().filter(|c| *c != '-').collect();
    if hex.len() != 32 || !hex.is_ascii() {
        return None;
    }
    let mut bytes = [0; 16];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_read_and_made() {
        let device = Device { uuid: None, ..Device::default() };
        let (text, bytes) = device.uuid(3);
        assert_eq!(parse_uuid("GPU-", &text), Some(bytes));
        assert_eq!(bytes[15], 3);
        assert_eq!(parse_uuid("GPU-", "GPU-zz"), None);
    }
}
