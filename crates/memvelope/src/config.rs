//! Every `MEMVELOPE_*` key once: unit, range, default and doc. This one table yields the parser,
//! the page in `docs/configuration.md` and `memvelope doctor`'s list.

use crate::error::Error;

/// What a key's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A whole number in `min..=max`, with its unit.
    Number {
        /// Unit as a word: bytes, count, ms, percent.
        unit: &'static str,
        /// Smallest accepted value.
        min: u64,
        /// Largest accepted value.
        max: u64,
        /// Value when the key is absent.
        default: u64,
    },
    /// One of a few words; the first is the default.
    Word(&'static [&'static str]),
    /// A path; absent by default.
    Path,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Environment variable.
    pub name: &'static str,
    /// What its value looks like.
    pub shape: Shape,
    /// What it does, and why its default is what it is.
    pub doc: &'static str,
    /// Who reads it.
    pub reader: Reader,
}

/// Which part of memvelope reads a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// The library.
    Library,
    /// The injection library alone.
    Inject,
    /// The simulated driver alone.
    Simulator,
    /// Test lanes alone.
    Tests,
}

macro_rules! keys {
    ($($ident:ident = $name:literal, $reader:ident, $shape:expr, $doc:literal;)*) => {
        $(#[doc = $doc] pub const $ident: Key =
            Key { name: $name, shape: $shape, doc: $doc, reader: Reader::$reader };)*
        /// Every key there is.
        pub const KEYS: &[Key] = &[$($ident),*];
    };
}

const fn number(unit: &'static str, min: u64, max: u64, default: u64) -> Shape {
    Shape::Number { unit, min, max, default }
}

const MIB: u64 = 1 << 20;

keys! {
    RECORD = "MEMVELOPE_RECORD", Library, Shape::Word(&["auto", "off", "poll"]),
        "What a session records: `auto` (CUPTI where it can be had), `poll` (driver and NVML polling only), `off`.";
    CUDA_PATH = "MEMVELOPE_CUDA_PATH", Library, Shape::Path,
        "Absolute path of libcuda, tried first and alone.";
    CUPTI_PATH = "MEMVELOPE_CUPTI_PATH", Library, Shape::Path,
        "Absolute path of libcupti, tried first and alone (unless one is already loaded: there must never be two).";
    NVML_PATH = "MEMVELOPE_NVML_PATH", Library, Shape::Path,
        "Absolute path of libnvidia-ml, tried first and alone.";
    BUFFER_BYTES = "MEMVELOPE_BUFFER_BYTES", Library, number("bytes", 64 << 10, 16 * MIB, MIB),
        "Size of one CUPTI activity buffer. 1 MiB holds about 4,000 kernel records; NVIDIA's guide recommends 1 to 10 MiB.";
    BUFFER_COUNT = "MEMVELOPE_BUFFER_COUNT", Library, number("count", 2, 1024, 32),
        "How many activity buffers the arena has; allocated once, never freed. When all are out, records are dropped and counted.";
    CUPTI_POOL_BUFFERS = "MEMVELOPE_CUPTI_POOL_BUFFERS", Library, number("count", 1, 250, 16),
        "Limit on CUPTI's own device buffers (3.2 MB each; CUPTI's default of 250 is 0.8 GB a context).";
    GRAPHS = "MEMVELOPE_GRAPHS", Library, Shape::Word(&["nodes", "whole"]),
        "How CUDA graphs are recorded: `nodes` (each kernel, copy and memset in them) or `whole` (one record a launch, at less cost). CUPTI does one or the other, for the whole process, and only for graphs that are instantiated after the recording began.";
    NVTX = "MEMVELOPE_NVTX", Library, Shape::Word(&["off", "on"]),
        "Whether ranges that the program marks with NVTX are recorded. NVTX must be pointed at libcupti before the program starts (`NVTX_INJECTION64_PATH`); `memvelope run --nvtx` does both.";
    CORRELATION = "MEMVELOPE_CORRELATION", Library, Shape::Word(&["auto", "off"]),
        "Whether work on the device is tied to the scopes (`profile`) it was launched in. With `auto` it begins with the first scope, and costs a record a launch from then on.";
    CONTEXT_GROWTH = "MEMVELOPE_CONTEXT_GROWTH", Library, Shape::Word(&["auto", "off"]),
        "Whether what contexts, modules and limits take on the device is measured: free memory before and after each call that makes one, on the calling thread (some 20 us, and some ms once for a context, beside calls of 100 us to 300 ms). With `off` it is part of what is unaccounted.";
    ATTRIBUTION = "MEMVELOPE_ATTRIBUTION", Library, Shape::Word(&["auto", "off"]),
        "Whether the library that asked for a driver allocation is found out, by the return addresses on the stack. It costs microseconds an allocation; where there is no safe way to do it, `auto` is `off` and says so.";
    SCOPES_MAX = "MEMVELOPE_SCOPES_MAX", Library, number("count", 256, 1 << 22, 65_536),
        "How many of the latest scopes keep their trace ids, 64 bytes each; work of older ones counts under its scope's name all the same.";
    CLOCK = "MEMVELOPE_CLOCK", Library, Shape::Word(&["auto", "realtime", "monotonic"]),
        "The clock of records: CUPTI's own (`realtime`, which steps when the system's clock is set) or one that never steps (`monotonic`, registered with CUPTI once a process). It must be registered before the program has contexts (with 13.3.3 and later: at any time), and some versions cannot bear it: the coverage then says why it was not. `auto` is `monotonic` where that works, and CUPTI's own on the simulated driver.";
    FINALIZE_MS = "MEMVELOPE_FINALIZE_MS", Library, number("ms", 0, 60_000, 0),
        "When not 0, a session that stops also finalizes CUPTI, which takes its remaining cost off the process, and waits so long for it. It blocks every thread that uses CUDA meanwhile, and crashes or spoils later recordings with some versions: those are left alone.";
    DRAIN_PERIOD_MS = "MEMVELOPE_DRAIN_PERIOD_MS", Library, number("ms", 1, 60_000, 100),
        "How often completed activity buffers are asked for.";
    POLL_PERIOD_MS = "MEMVELOPE_POLL_PERIOD_MS", Library, number("ms", 100, 600_000, 1_000),
        "How often the driver, NVML and the cgroup are asked. NVML's process list takes the driver's global lock for milliseconds, hence not below 100 ms.";
    PUBLISH = "MEMVELOPE_PUBLISH", Library, Shape::Word(&["auto", "off"]),
        "Whether `memvelope snapshot` finds this session: with `auto` its report stands in a file without a path (a memfd of 260 KiB, seen by those alone who may look into `/proc/PID/fd`), renewed every poll period at a hundredth of a core at most.";
    ALLOCATIONS_MAX = "MEMVELOPE_ALLOCATIONS_MAX", Library, number("count", 1024, 1 << 24, 1 << 16),
        "Limit on live driver allocations in the ledger (a serving process has 10^2 to 10^4); past it they are counted as dropped.";
    HISTORY_POINTS_MAX = "MEMVELOPE_HISTORY_POINTS_MAX", Library, number("count", 128, 1 << 22, 8192),
        "Limit on points of the VRAM curve in a trace, 40 bytes each; when full, neighbouring changes share a point (the highest is kept).";
    NAMES_MAX = "MEMVELOPE_NAMES_MAX", Library, number("count", 16, 1 << 20, 8192),
        "Limit on distinct kernel and span names; later ones are counted together as (other names).";
    NAME_BYTES_MAX = "MEMVELOPE_NAME_BYTES_MAX", Library, number("bytes", 16, 65_536, 1024),
        "Length at which a name is cut. C++ template names reach tens of kilobytes.";
    TRACE_EVENTS_MAX = "MEMVELOPE_TRACE_EVENTS_MAX", Library, number("count", 256, 1 << 22, 200_000),
        "Limit on events kept for a trace; when full, every other window of the run is thinned out. 200,000 make about 30 MiB of JSON.";
    TRACE_WINDOW_MS = "MEMVELOPE_TRACE_WINDOW_MS", Library, number("ms", 1, 60_000, 10),
        "Length of a sampling window: inside a kept window every event is kept, so that steps stay readable.";
    REPORT = "MEMVELOPE_REPORT", Inject, Shape::Path,
        "Where the injection library keeps its report as a file, rewritten every poll period and at exit; `%p` stands for the process id. Without it, no such file is written.";
    SUMMARY = "MEMVELOPE_SUMMARY", Inject, Shape::Path,
        "Set by `memvelope run` on the program it starts: the file in which recorded processes keep what they saw.";
    TRACE_DIR = "MEMVELOPE_TRACE_DIR", Inject, Shape::Path,
        "Directory in which the injection library keeps a trace of the process: rewritten at least 10 s apart, so that it takes a fiftieth of the time at most, and at exit. Without it, no trace is written.";
    SIM_SCENARIO = "MEMVELOPE_SIM_SCENARIO", Simulator, Shape::Path,
        "Scenario file (TOML) of the simulated driver; without it, one 80 GiB device.";
    SIM_BOOKS = "MEMVELOPE_SIM_BOOKS", Simulator, Shape::Path,
        "Where the simulated driver writes its own books (JSON) at exit. memvelope never reads them; tests compare with them.";
    SIM_ACTIVE = "MEMVELOPE_SIM_ACTIVE", Simulator, Shape::Path,
        "Set by `--device sim` on the process it re-executes: the private directory with the simulated libraries.";
    GPU = "MEMVELOPE_GPU", Tests, Shape::Word(&["auto", "require", "off"]),
        "`require` turns a GPU test that is ignored for want of a GPU into a failure; `off` ignores them all.";
    SOAK_S = "MEMVELOPE_SOAK_S", Tests, number("s", 1, 86_400, 1),
        "How long the gate's soak test runs; without it, a second and a half.";
}

/// The library's configuration. [`Config::default`] is the table's defaults; [`Config::from_env`]
/// reads the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// [`RECORD`].
    pub record: Record,
    /// [`CUDA_PATH`].
    pub cuda_path: Option<std::path::PathBuf>,
    /// [`CUPTI_PATH`].
    pub cupti_path: Option<std::path::PathBuf>,
    /// [`NVML_PATH`].
    pub nvml_path: Option<std::path::PathBuf>,
    /// [`BUFFER_BYTES`].
    pub buffer_bytes: u64,
    /// [`BUFFER_COUNT`].
    pub buffer_count: u64,
    /// [`CUPTI_POOL_BUFFERS`].
    pub cupti_pool_buffers: u64,
    /// [`GRAPHS`]: whether each launch of a graph is one record.
    pub whole_graphs: bool,
    /// [`NVTX`].
    pub nvtx: bool,
    /// [`CORRELATION`]: whether work is tied to scopes.
    pub correlation: bool,
    /// [`CONTEXT_GROWTH`]: whether it is measured.
    pub context_growth: bool,
    /// [`ATTRIBUTION`]: whether libraries are found out.
    pub attribution: bool,
    /// [`SCOPES_MAX`].
    pub scopes_max: u64,
    /// [`CLOCK`].
    pub clock: Clock,
    /// [`FINALIZE_MS`]; 0 is never.
    pub finalize_ms: u64,
    /// [`DRAIN_PERIOD_MS`].
    pub drain_period_ms: u64,
    /// [`POLL_PERIOD_MS`].
    pub poll_period_ms: u64,
    /// [`PUBLISH`]: whether `memvelope snapshot` finds this session.
    pub publish: bool,
    /// [`ALLOCATIONS_MAX`].
    pub allocations_max: u64,
    /// [`HISTORY_POINTS_MAX`].
    pub history_points_max: u64,
    /// [`NAMES_MAX`].
    pub names_max: u64,
    /// [`NAME_BYTES_MAX`].
    pub name_bytes_max: u64,
    /// [`TRACE_EVENTS_MAX`].
    pub trace_events_max: u64,
    /// [`TRACE_WINDOW_MS`].
    pub trace_window_ms: u64,
}

/// What a session records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// CUPTI where it can be had, polling otherwise.
    Auto,
    /// Polling only.
    Poll,
    /// Nothing.
    Off,
}

/// The clock of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Monotonic where CUPTI can be trusted with it.
    Auto,
    /// CUPTI's own.
    Realtime,
    /// One that never steps.
    Monotonic,
}

impl Default for Config {
    fn default() -> Self {
        // The table's own defaults are in range, so an empty environment cannot be refused.
        Self::read(|_| None).0
    }
}

impl Config {
    /// Reads the process environment. Unusable values keep their default and are returned as
    /// errors, one each, together with unknown `MEMVELOPE_*` keys: a typo must not stop a server,
    /// and must not go unseen either.
    #[must_use]
    pub fn from_env() -> (Self, Vec<Error>) {
        let (config, mut problems) = Self::read(|name| std::env::var(name).ok());
        problems
            .extend(unknown_keys(std::env::vars_os().filter_map(|(k, _)| k.into_string().ok())));
        (config, problems)
    }

    /// The same with every number brought into its key's range. Fields are public, and what
    /// [`Self::read`] refuses must not come in by them: a period of 0 would keep a thread spinning,
    /// and an absurd limit is memory that is taken at once.
    #[must_use]
    pub fn within_limits(&self) -> Self {
        let clamp = |key: &Key, value: u64| match key.shape {
            Shape::Number { min, max, .. } => value.clamp(min, max),
            Shape::Word(_) | Shape::Path => value,
        };
        Self {
            buffer_bytes: clamp(&BUFFER_BYTES, self.buffer_bytes),
            buffer_count: clamp(&BUFFER_COUNT, self.buffer_count),
            cupti_pool_buffers: clamp(&CUPTI_POOL_BUFFERS, self.cupti_pool_buffers),
            scopes_max: clamp(&SCOPES_MAX, self.scopes_max),
            finalize_ms: clamp(&FINALIZE_MS, self.finalize_ms),
            drain_period_ms: clamp(&DRAIN_PERIOD_MS, self.drain_period_ms),
            poll_period_ms: clamp(&POLL_PERIOD_MS, self.poll_period_ms),
            allocations_max: clamp(&ALLOCATIONS_MAX, self.allocations_max),
            history_points_max: clamp(&HISTORY_POINTS_MAX, self.history_points_max),
            names_max: clamp(&NAMES_MAX, self.names_max),
            name_bytes_max: clamp(&NAME_BYTES_MAX, self.name_bytes_max),
            trace_events_max: clamp(&TRACE_EVENTS_MAX, self.trace_events_max),
            trace_window_ms: clamp(&TRACE_WINDOW_MS, self.trace_window_ms),
            ..self.clone()
        }
    }

    /// Reads keys through `lookup` (name to value).
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> (Self, Vec<Error>) {
        let mut reader = Values { lookup: &lookup, problems: Vec::new() };
        let config = Self {
            record: match reader.word(&RECORD) {
                "off" => Record::Off,
                "poll" => Record::Poll,
                _ => Record::Auto,
            },
            cuda_path: reader.path(&CUDA_PATH),
            cupti_path: reader.path(&CUPTI_PATH),
            nvml_path: reader.path(&NVML_PATH),
            buffer_bytes: reader.number(&BUFFER_BYTES),
            buffer_count: reader.number(&BUFFER_COUNT),
            cupti_pool_buffers: reader.number(&CUPTI_POOL_BUFFERS),
            whole_graphs: reader.word(&GRAPHS) == "whole",
            nvtx: reader.word(&NVTX) == "on",
            correlation: reader.word(&CORRELATION) == "auto",
            context_growth: reader.word(&CONTEXT_GROWTH) == "auto",
            attribution: reader.word(&ATTRIBUTION) == "auto",
            scopes_max: reader.number(&SCOPES_MAX),
            clock: match reader.word(&CLOCK) {
                "realtime" => Clock::Realtime,
                "monotonic" => Clock::Monotonic,
                _ => Clock::Auto,
            },
            finalize_ms: reader.number(&FINALIZE_MS),
            drain_period_ms: reader.number(&DRAIN_PERIOD_MS),
            poll_period_ms: reader.number(&POLL_PERIOD_MS),
            publish: reader.word(&PUBLISH) == "auto",
            allocations_max: reader.number(&ALLOCATIONS_MAX),
            history_points_max: reader.number(&HISTORY_POINTS_MAX),
            names_max: reader.number(&NAMES_MAX),
            name_bytes_max: reader.number(&NAME_BYTES_MAX),
            trace_events_max: reader.number(&TRACE_EVENTS_MAX),
            trace_window_ms: reader.number(&TRACE_WINDOW_MS),
        };
        (config, reader.problems)
    }
}

/// `MEMVELOPE_*` names that no key has.
pub fn unknown_keys(names: impl Iterator<Item = String>) -> Vec<Error> {
    names
        .filter(|name| name.starts_with("MEMVELOPE_"))
        .filter(|name| KEYS.iter().all(|key| key.name != name))
        .map(|name| Error::ReadConfig {
            value: std::env::var(&name).unwrap_or_default(),
            expected: "a known key (`memvelope doctor` lists them)".into(),
            key: name,
        })
        .collect()
}

struct Values<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<Error>,
}

impl Values<'_> {
    fn refuse(&mut self, key: &Key, value: String, expected: String) {
        self.problems.push(Error::ReadConfig { key: key.name.into(), value, expected });
    }

    fn number(&mut self, key: &Key) -> u64 {
        let Shape::Number { unit, min, max, default } = key.shape else { return 0 };
        let Some(text) = (self.lookup)(key.name) else { return default };
        match text.trim().parse::<u64>() {
            Ok(value) if (min..=max).contains(&value) => value,
            _ => {
                self.refuse(key, text, format!("a whole number of {unit}, {min} to {max}"));
                default
            }
        }
    }

    fn word(&mut self, key: &Key) -> &'static str {
        let Shape::Word(words) = key.shape else { return "" };
        let Some(text) = (self.lookup)(key.name) else { return words[0] };
        match words.iter().find(|word| **word == text.trim()) {
            Some(word) => word,
            None => {
                self.refuse(key, text, format!("one of {}", words.join(", ")));
                words[0]
            }
        }
    }

    fn path(&mut self, key: &Key) -> Option<std::path::PathBuf> {
        let text = (self.lookup)(key.name).filter(|text| !text.is_empty())?;
        let path = std::path::PathBuf::from(&text);
        if path.is_absolute() {
            return Some(path);
        }
        self.refuse(key, text, "an absolute path".into());
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[(&str, &str)], expect_problems: usize) -> Config {
        let (config, problems) = Config::read(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        });
        assert_eq!(problems.len(), expect_problems, "{problems:?}");
        config
    }

    #[test]
    fn defaults_come_from_the_table() {
        let config = check(&[], 0);
        assert_eq!(config.buffer_bytes, 1 << 20);
        assert_eq!(config.record, Record::Auto);
        assert_eq!(config, Config::default());
    }

    #[test]
    fn bad_values_keep_the_default_and_are_named() {
        let config = check(
            &[
                ("MEMVELOPE_BUFFER_BYTES", "-1"),
                ("MEMVELOPE_RECORD", "yes"),
                ("MEMVELOPE_CUDA_PATH", "x"),
            ],
            3,
        );
        assert_eq!(config, Config::default());
    }

    #[test]
    fn fields_are_held_to_the_ranges_of_their_keys() {
        let config = Config {
            drain_period_ms: 0,
            poll_period_ms: 0,
            buffer_count: 0,
            allocations_max: u64::MAX,
            names_max: u64::MAX,
            ..Config::default()
        };
        let held = config.within_limits();
        assert_eq!((held.drain_period_ms, held.poll_period_ms, held.buffer_count), (1, 100, 2));
        assert_eq!((held.allocations_max, held.names_max), (1 << 24, 1 << 20));
        assert_eq!(Config::default().within_limits(), Config::default());
    }

    #[test]
    fn unknown_keys_are_named() {
        let unknown = unknown_keys(["MEMVELOPE_BUFER_BYTES", "PATH"].map(String::from).into_iter());
        assert_eq!(unknown.len(), 1);
        assert!(unknown[0].to_string().contains("MEMVELOPE_BUFER_BYTES"));
    }

    #[test]
    fn keys_are_unique_and_documented() {
        for (i, key) in KEYS.iter().enumerate() {
            assert!(key.name.starts_with("MEMVELOPE_") && key.doc.ends_with('.'), "{}", key.name);
            assert!(KEYS[i + 1..].iter().all(|other| other.name != key.name), "{}", key.name);
            if let Shape::Number { min, max, default, .. } = key.shape {
                assert!((min..=max).contains(&default), "{}", key.name);
            }
        }
    }
}
