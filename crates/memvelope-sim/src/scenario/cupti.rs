//! The part of a scenario that is about CUPTI: its version, what it costs, and what it does wrong.

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};
use std::fmt;

/// The simulated CUPTI: `cupti = "13.0"`, or a table with `version` and more.
#[derive(Clone, Debug)]
pub struct Cupti {
    /// One of [`super::CUPTI_VERSIONS`].
    pub version: String,
    /// Host time that a buffer request takes.
    pub buffer_request_ns: u64,
    /// Overhead records that come by themselves.
    pub overheads: Vec<Overhead>,
    /// Size of one of CUPTI's own buffers on the device; 0 leaves them out of the accounts.
    pub device_buffer_bytes: u64,
    /// Records that one of them takes.
    pub device_buffer_records: u64,
    /// Whether a record's place in them is never used again.
    pub device_buffer_leak: bool,
}

/// An overhead record that comes by itself.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overhead {
    /// When it begins, in nanoseconds after `start_ns`.
    pub after_ns: u64,
    /// How long it lasts. The host's own time does not move.
    pub ns: u64,
    /// `CUpti_ActivityOverheadKind`.
    #[serde(default = "instrumentation")]
    pub kind: u32,
}

/// `CUPTI_ACTIVITY_OVERHEAD_CUPTI_INSTRUMENTATION`.
fn instrumentation() -> u32 {
    2 << 16
}

/// The same with every key, as serde derives it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Table {
    version: String,
    buffer_request_ns: u64,
    overheads: Vec<Overhead>,
    device_buffer_bytes: u64,
    device_buffer_records: u64,
    device_buffer_leak: bool,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            version: "13.0".into(),
            buffer_request_ns: 0,
            overheads: Vec::new(),
            device_buffer_bytes: 0,
            device_buffer_records: 100_000,
            device_buffer_leak: false,
        }
    }
}

impl From<Table> for Cupti {
    fn from(table: Table) -> Self {
        Self {
            version: table.version,
            buffer_request_ns: table.buffer_request_ns,
            overheads: table.overheads,
            device_buffer_bytes: table.device_buffer_bytes,
            device_buffer_records: table.device_buffer_records,
            device_buffer_leak: table.device_buffer_leak,
        }
    }
}

impl Default for Cupti {
    fn default() -> Self {
        Table::default().into()
    }
}

impl<'de> Deserialize<'de> for Cupti {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Cupti;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a CUPTI version or a table")
            }

            fn visit_str<E: de::Error>(self, version: &str) -> Result<Cupti, E> {
                Ok(Cupti { version: version.into(), ..Cupti::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Cupti, A::Error> {
                Table::deserialize(MapAccessDeserializer::new(map)).map(Cupti::from)
            }
        }
        from.deserialize_any(Either)
    }
}

impl Cupti {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.device_buffer_records == 0 {
            return Err("device_buffer_records must be above 0".into());
        }
        if !self.overheads.is_sorted_by_key(|overhead| overhead.after_ns) {
            return Err("overheads: in the order of after_ns".into());
        }
        Ok(())
    }
}

/// What the simulated CUPTI does wrong. Zero and `false` are off; `every = n` is each n-th.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CuptiFaults {
    /// Buffers whose last quarter comes back as seeded garbage.
    pub garbage_every: u64,
    /// Buffers that come back cut inside their last record.
    pub truncate_every: u64,
    /// Buffers that come back twice.
    pub duplicate_buffer_every: u64,
    /// GPU records without times.
    pub zero_timestamps_every: u64,
    /// GPU records that end before they begin.
    pub reversed_timestamps_every: u64,
    /// Kernel records without a name.
    pub null_names_every: u64,
    /// Kernel records with a name that is not UTF-8.
    pub bad_names_every: u64,
    /// How many different names a kernel gets, by a running number; `true` is no limit.
    #[serde(deserialize_with = "count_or_all")]
    pub distinct_names: u64,
    /// The first so many GPU records have times before recording began.
    pub older_than_attach: u64,
    /// How far CUPTI's clock jumps.
    pub clock_step_ns: i64,
    /// When it does, in nanoseconds after `start_ns`.
    pub clock_step_at_ns: u64,
    /// The libcuda call at which another client takes the subscription from ours.
    pub steal_subscriber_at_call: u64,
    /// The libcuda call at which it gives it back.
    pub release_subscriber_at_call: u64,
    /// The libcuda call at which the scenario's own `subscriber` leaves.
    pub subscriber_leaves_at_call: u64,
    /// A completed buffer is handed back only so many flushes later.
    pub late_buffers: u64,
    /// A flush hands buffers back in reverse order.
    pub reorder_buffers: bool,
    /// Every second buffer comes back only when no kind is on any more, from another thread.
    pub complete_after_stop: bool,
    /// The first so many records are dropped, and counted as dropped.
    pub drop_records: u64,
    /// Real time that every flush hangs.
    pub flush_hangs_ms: u64,
    /// Real time that `cuptiFinalize` hangs.
    pub finalize_hangs_ms: u64,
    /// Whether enabling a kind answers 999 after `cuptiFinalize`.
    pub finalize_poisons: bool,
    /// Whether a null buffer aborts the process; by default before 12.9.
    pub null_buffer_crashes: Option<bool>,
    /// Whether any call before `cuInit` succeeded aborts the process; by default in 13.2.
    pub crash_before_init: Option<bool>,
    /// Whether any call from inside `InitializeInjection` does too.
    pub crash_in_injection: bool,
    /// Whether GPU records have no times once a clock was registered; by default 12.6 to 13.0.
    pub timestamp_callback_zeroes: Option<bool>,
    /// Whether each thread has a buffer of its own at first; by default from 13.0 on.
    pub per_thread_buffers: Option<bool>,
}

fn count_or_all<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    struct Either;
    impl Visitor<'_> for Either {
        type Value = u64;

        fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
            to.write_str("a count, true or false")
        }

        fn visit_bool<E: de::Error>(self, all: bool) -> Result<u64, E> {
            Ok(if all { u64::MAX } else { 0 })
        }

        fn visit_i64<E: de::Error>(self, count: i64) -> Result<u64, E> {
            u64::try_from(count).map_err(|_| E::custom("distinct_names must not be negative"))
        }

        fn visit_u64<E: de::Error>(self, count: u64) -> Result<u64, E> {
            Ok(count)
        }
    }
    from.deserialize_any(Either)
}

impl CuptiFaults {
    /// Puts the version's own behaviour where the scenario says nothing.
    #[must_use]
    pub fn for_version(mut self, version: u32) -> Self {
        self.null_buffer_crashes.get_or_insert(version < 1209);
        self.crash_before_init.get_or_insert(version == 1302);
        self.timestamp_callback_zeroes.get_or_insert((1206..=1300).contains(&version));
        self.per_thread_buffers.get_or_insert(version >= 1300);
        self
    }
}
