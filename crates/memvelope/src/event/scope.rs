//! Scopes: whose work a kernel is.
//!
//! A scope is a stretch of host time on one thread that the program named: a request, a step. CUPTI
//! ties the work launched in it to the scope's id (an "external correlation id"). The id carries the
//! name, so that totals by name need no table; what else belongs to a scope (its W3C trace context)
//! stands in a bounded table, [`Scopes`].

use super::NameId;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Which scope, unique in the process: the name in the upper 20 bits, a running number below. The
/// number is never 0, so that 0 is no scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ScopeId(pub u64);

/// Bits of the running number: at a million scopes a second it lasts for half a year.
const NUMBER_BITS: u32 = 44;
const NUMBER_MAX: u64 = (1 << NUMBER_BITS) - 1;

impl ScopeId {
    /// Outside of every scope.
    pub const NONE: Self = Self(0);

    /// The scope `number` (from 1; taken modulo 2^44) under `name`. Names past 2^20 become
    /// [`NameId::OTHER`].
    #[must_use]
    pub const fn new(name: NameId, number: u64) -> Self {
        let name = if name.0 < 1 << 20 { name.0 as u64 } else { 0 };
        let number = number & NUMBER_MAX;
        Self(name << NUMBER_BITS | if number == 0 { 1 } else { number })
    }

    /// Whether it is one.
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> NameId {
        NameId((self.0 >> NUMBER_BITS) as u32)
    }

    /// Its running number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0 & NUMBER_MAX
    }
}

/// Where in a distributed trace something belongs: the ids of a W3C `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The whole trace, 16 bytes; not 0.
    pub trace_id: u128,
    /// The caller's span, 8 bytes; 0 if only the trace is known.
    pub span_id: u64,
    /// Whether the caller records its own part.
    pub is_sampled: bool,
}

/// Headers that were no `traceparent`, since the process began.
static UNREAD: AtomicU64 = AtomicU64::new(0);

/// How many headers [`TraceContext::from_header`] could not read since the process began.
#[must_use]
pub fn unread_traceparents() -> u64 {
    UNREAD.load(Ordering::Relaxed)
}

impl TraceContext {
    /// A trace of which only the id is known; `None` for 0, which is none.
    #[must_use]
    pub fn of_trace(trace_id: u128) -> Option<Self> {
        (trace_id != 0).then_some(Self { trace_id, span_id: 0, is_sampled: true })
    }

    /// The trace that a client's `traceparent` header names. What is none is counted and not
    /// refused: the server then begins a trace of its own (W3C Trace Context, §3.2.2.5), and does not
    /// fail for what somebody sent it.
    #[must_use]
    pub fn from_header(header: &str) -> Option<Self> {
        let context = traceparent(header.trim());
        if context.is_none() {
            UNREAD.fetch_add(1, Ordering::Relaxed);
        }
        context
    }
}

/// A text that is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseTraceparent;

impl fmt::Display for ParseTraceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected 32 hexadecimal digits of a trace id, or a W3C traceparent as \
             00-<32 digits>-<16 digits>-<2 digits> with ids that are not all zero",
        )
    }
}

impl std::error::Error for ParseTraceparent {}

/// Lower-case hexadecimal digits of exactly this many bytes, as W3C has them.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let fits = text.len() == digits && text.bytes().all(is_hex);
    if fits { u128::from_str_radix(text, 16).ok() } else { None }
}

/// W3C Trace Context, §3.2, of any version but `ff`, whose later fields are not looked at.
fn traceparent(text: &str) -> Option<TraceContext> {
    let mut parts = text.split('-');
    let mut part = |digits| parts.next().and_then(|part| hex(part, digits));
    let (version, trace_id, span_id, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let has_more = parts.next().is_some();
    let is_none = trace_id == 0 || span_id == 0 || version == 0xff || (version == 0 && has_more);
    let span_id = u64::try_from(span_id).ok()?;
    (!is_none).then_some(TraceContext { trace_id, span_id, is_sampled: flags & 1 == 1 })
}

/// From a `traceparent` header, or from a trace id alone.
impl FromStr for TraceContext {
    type Err = ParseTraceparent;

    fn from_str(text: &str) -> Result<Self, ParseTraceparent> {
        let text = text.trim();
        let trace = hex(text, 32).and_then(Self::of_trace).or_else(|| traceparent(text));
        trace.ok_or(ParseTraceparent)
    }
}

/// As a `traceparent` header.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace_id, self.span_id)
    }
}

/// What is known of a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Which.
    pub id: ScopeId,
    /// Where it belongs in a distributed trace, if the program said so.
    pub trace: Option<TraceContext>,
}

/// The latest scopes, at most `limit`: opening one more forgets the oldest.
#[derive(Debug)]
pub struct Scopes {
    inner: Mutex<Inner>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Inner {
    /// By running number modulo the limit; grows with use.
    slots: Vec<Scope>,
    opened: u64,
}

impl Scopes {
    /// A table of at most `limit` scopes (1 at least), 64 bytes each.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { inner: Mutex::default(), limit: limit.max(1) }
    }

    /// Opens a scope. Locks a leaf for some nanoseconds; not for driver callbacks.
    pub fn open(&self, name: NameId, trace: Option<TraceContext>) -> ScopeId {
        let mut inner = self.lock();
        inner.opened += 1;
        let id = ScopeId::new(name, inner.opened);
        let scope = Scope { id, trace };
        let slot = (inner.opened - 1) % self.limit as u64;
        match inner.slots.get_mut(slot as usize) {
            Some(place) => *place = scope,
            None => inner.slots.push(scope),
        }
        id
    }

    /// What is known of a scope; `None` once it was forgotten.
    #[must_use]
    pub fn get(&self, id: ScopeId) -> Option<Scope> {
        if !id.is_some() {
            return None;
        }
        let slot = (id.number() - 1) % self.limit as u64;
        self.lock().slots.get(slot as usize).copied().filter(|scope| scope.id == id)
    }

    /// How many were opened so far.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.lock().opened
    }

    /// Bytes of host memory the table holds.
    #[must_use]
    pub fn host_bytes(&self) -> u64 {
        (self.lock().slots.capacity() * size_of::<Scope>()) as u64
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every statement leaves the table consistent.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_carries_its_name() {
        let id = ScopeId::new(NameId(77), 5);
        assert_eq!((id.name(), id.number(), id.is_some()), (NameId(77), 5, true));
        assert_eq!(ScopeId::new(NameId(1 << 20), 1).name(), NameId::OTHER);
        assert!(ScopeId::new(NameId::OTHER, 0).is_some(), "no scope has the id of none");
        assert!(!ScopeId::NONE.is_some());
    }

    #[test]
    fn the_oldest_scope_is_forgotten() {
        let scopes = Scopes::new(2);
        let trace: TraceContext = "0af7651916cd43dd8448eb211c80319c".parse().unwrap();
        let [a, b, c] = [1, 2, 3].map(|name| scopes.open(NameId(name), Some(trace)));
        assert_eq!(scopes.get(a), None);
        assert_eq!(scopes.get(b).map(|scope| scope.trace), Some(Some(trace)));
        assert_eq!(scopes.get(c).map(|scope| scope.id), Some(c));
        assert_eq!(scopes.get(ScopeId::NONE), None);
        assert_eq!(scopes.opened(), 3);
    }

    #[test]
    fn traceparents_are_read_as_w3c_has_them() {
        const ID: &str = "0af7651916cd43dd8448eb211c80319c";
        const SPAN: &str = "b7ad6b7169203331";
        let read = |text: &str| text.parse::<TraceContext>().ok();
        let full = format!("00-{ID}-{SPAN}-01");
        let context = read(&full).unwrap();
        assert_eq!(context.span_id, 0xb7ad_6b71_6920_3331);
        assert!(context.is_sampled);
        assert_eq!(context.to_string(), full);
        assert_eq!(read(ID).map(|context| context.span_id), Some(0));
        // A later version may have more fields; this one has not.
        assert!(read(&format!("01-{ID}-{SPAN}-00-more")).is_some_and(|c| !c.is_sampled));
        for bad in [
            "",
            "00",
            &format!("00-{ID}-{SPAN}-01-more"),
            &format!("ff-{ID}-{SPAN}-01"),
            &format!("00-{}-{SPAN}-01", "0".repeat(32)),
            &format!("00-{ID}-{}-01", "0".repeat(16)),
            &format!("00-{}-{SPAN}-01", ID.to_uppercase()),
            &format!("00-{ID}-{SPAN}-1"),
            &"0".repeat(32),
            "+af7651916cd43dd8448eb211c80319c",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn headers_that_are_none_are_counted() {
        const ID: &str = "0af7651916cd43dd8448eb211c80319c";
        let before = unread_traceparents();
        let header = format!(" 00-{ID}-b7ad6b7169203331-00 ");
        assert!(TraceContext::from_header(&header).is_some_and(|context| !context.is_sampled));
        // A trace id alone is none.
        for bad in ["", ID, &format!("{header},{header}"), "\u{fffd}"] {
            assert_eq!(TraceContext::from_header(bad), None, "{bad}");
        }
        assert_eq!(unread_traceparents(), before + 4);
        assert_eq!(TraceContext::of_trace(0), None);
        assert_eq!(TraceContext::of_trace(5).map(|context| context.trace_id), Some(5));
    }
}
