//! Scopes as a program opens them: a name for a stretch of host time, and the work launched in it.
//!
//! * [`Session::scope`]: until a guard drops, on this thread.
//! * [`Session::instrument`]: while a future is polled, on whatever thread that is.
//! * [`OpenScope`]: entered and left by hand, for bindings.
//!
//! Each becomes a span of the trace. With recording off, none of them does anything.

use super::client::Client;
use super::state::Inner;
use super::{Role, Session};
use crate::config::Record;
use crate::event::{
    Body, Event, NameId, ScopeId, SeenBy, Span, SpanOrigin, TraceContext, unread_traceparents,
};
use crate::source::cupti::Recorder;
use crate::units::Nanos;
use std::cell::Cell;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

impl Session {
    /// Until the guard drops, kernels and copies that this thread launches belong to a scope of this
    /// name, within those that are open already, and the host time becomes a span of the trace.
    /// `trace` says to which distributed trace it belongs.
    ///
    /// Names are kept for the life of the process, and their number is bounded
    /// (`MEMVELOPE_NAMES_MAX`): name what is done, not for whom. Guards may drop in any order. A
    /// guard that is leaked leaves its scope open on the thread. Up to 64 nest; deeper ones count
    /// with the one around them. Costs nothing to speak of while recording is off.
    ///
    /// Across an `.await` a guard would also count what other tasks do on the thread, unless the
    /// future is instrumented itself ([`Self::instrument`]): then guards in it are exact too.
    ///
    /// ```
    /// # use memvelope::{config::{Config, Record}, runtime::Session};
    /// # let mut config = Config::default();
    /// # config.record = Record::Off;
    /// # let session = Session::start(&config)?;
    /// let trace = "0af7651916cd43dd8448eb211c80319c".parse().ok();
    /// let _scope = session.scope("prefill", trace);
    /// # Ok::<(), memvelope::Error>(())
    /// ```
    pub fn scope(&self, name: &str, trace: Option<TraceContext>) -> ScopeGuard {
        let open = self.open(name, None, trace);
        let is_inside = open.as_ref().is_some_and(|open| open.enter(0));
        ScopeGuard { open, is_inside, _not_send: PhantomData }
    }

    /// The same for a future: the scope is entered whenever it is polled (or dropped) and left
    /// after that, so that it counts exactly what the future launches, whatever else its threads do
    /// in between. The span is from its first poll to its end.
    pub fn instrument<F: Future>(
        &self,
        name: &str,
        trace: Option<TraceContext>,
        future: F,
    ) -> Instrumented<F> {
        let begin = Begin { session: self.clone(), name: name.into(), trace };
        Instrumented { future: Some(Box::pin(future)), begin: Some(begin), open: None }
    }

    /// Opens a scope without entering it; `None` where nothing is recorded.
    #[must_use]
    pub fn open_scope(&self, name: &ScopeName, trace: Option<TraceContext>) -> Option<OpenScope> {
        self.open(&name.text, Some(&name.id), trace)
    }

    fn open(
        &self,
        text: &str,
        id: Option<&OnceLock<NameId>>,
        trace: Option<TraceContext>,
    ) -> Option<OpenScope> {
        match &self.role {
            Role::Own(inner) => {
                let is_off = inner.config.record == Record::Off || inner.is_frozen();
                if is_off || !inner.is_awake() {
                    return None;
                }
                let intern = || inner.names.intern(text);
                let name = id.map_or_else(intern, |id| *id.get_or_init(intern));
                let (start, scope) = (inner.now(), inner.scopes.open(name, trace));
                Some(OpenScope { host: Host::Own(Arc::clone(inner)), scope, start })
            }
            Role::Client(client) => {
                let start = Nanos(client.now()?);
                let scope = ScopeId(client.scope_open(text, trace)?);
                Some(OpenScope { host: Host::Client(Arc::clone(client)), scope, start })
            }
        }
    }

    /// Whether the next scope has to wait for CUPTI: the first of a recording switches on what ties
    /// work to scopes. Where you hold a lock that others want, call [`Self::prepare_scopes`] before
    /// you take it.
    #[must_use]
    pub fn is_scope_pending(&self) -> bool {
        match &self.role {
            Role::Own(inner) => inner.may_call() && Recorder::is_scope_pending(),
            Role::Client(client) => client.is_scope_pending(),
        }
    }

    /// Switches on what ties work to scopes, which the first scope does otherwise.
    pub fn prepare_scopes(&self) {
        match &self.role {
            Role::Own(inner) if inner.may_call() => Recorder::prepare_scopes(),
            Role::Own(_) => {}
            Role::Client(client) => client.scope_prepare(),
        }
    }

    /// The session that scopes of this process are told to: this copy's, unless it is off, or else
    /// that of another copy that records without anybody here having started it, as the injection
    /// library does (`memvelope run`). `None` takes no lock, and next to no time.
    #[must_use]
    pub fn recording() -> Option<Self> {
        if super::session::is_active() { Self::current() } else { super::client::joined() }
    }
}

/// A name of scopes that is looked up once and used often.
#[derive(Debug)]
pub struct ScopeName {
    text: Box<str>,
    /// Ids hold for the life of the process.
    id: OnceLock<NameId>,
}

impl ScopeName {
    /// Keeps `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self { text: text.into(), id: OnceLock::new() }
    }

    /// The name.
    #[must_use]
    pub const fn as_str(&self) -> &str {
        &self.text
    }
}

#[derive(Debug)]
enum Host {
    Own(Arc<Inner>),
    Client(Arc<Client>),
}

/// A scope that is open, and that threads enter and leave. Ends when dropped, with a span.
#[derive(Debug)]
#[must_use = "the scope ends when this drops"]
pub struct OpenScope {
    host: Host,
    scope: ScopeId,
    start: Nanos,
}

impl OpenScope {
    /// Which scope; in another copy's numbers where that one records.
    #[must_use]
    pub const fn id(&self) -> ScopeId {
        self.scope
    }

    /// From now on what this thread launches belongs to the scope, until [`Self::leave`] with the
    /// same `task`. A number other than 0 tells apart tasks that take turns on a thread: of their
    /// scopes only those of the task that entered or left one last are in force.
    ///
    /// False if there is nothing to leave: the thread is inside of too many, or is a forked child's.
    #[must_use]
    pub fn enter(&self, task: u64) -> bool {
        match &self.host {
            Host::Own(inner) => {
                inner.is_awake() && Recorder::enter_scope(self.scope, task, inner.may_call())
            }
            Host::Client(client) => client.scope_enter(self.scope.0, task),
        }
    }

    /// The end of one [`Self::enter`] that was true. On another thread than that was on it holds from
    /// the next time on that the entering thread enters or leaves any scope.
    pub fn leave(&self, task: u64) {
        match &self.host {
            Host::Own(inner) if inner.is_awake() => {
                Recorder::leave_scope(self.scope, task, inner.may_call());
            }
            Host::Own(_) => {}
            Host::Client(client) => client.scope_leave(self.scope.0, task),
        }
    }

    /// Like [`Self::leave`], between two steps of a task: scopes that it entered inside of this one
    /// and that are open still are left as well, and entered again with the next [`Self::enter`].
    pub fn suspend(&self, task: u64) {
        match &self.host {
            Host::Own(inner) if inner.is_awake() => {
                Recorder::suspend_scope(self.scope, task, inner.may_call());
            }
            Host::Own(_) => {}
            Host::Client(client) => client.scope_suspend(self.scope.0, task),
        }
    }
}

impl Drop for OpenScope {
    fn drop(&mut self) {
        match &self.host {
            Host::Own(inner) => {
                Recorder::forget_scope(self.scope);
                end_span(inner, self.scope, self.start);
            }
            Host::Client(client) => client.scope_end(self.scope.0, self.start.0),
        }
    }
}

/// The span of a scope that ends now, on this thread.
pub(super) fn end_span(inner: &Inner, scope: ScopeId, start: Nanos) {
    if inner.is_frozen() || !inner.is_awake() {
        return;
    }
    let end = inner.now();
    let (name, origin, start) = (scope.name(), SpanOrigin::Program, start.min(end));
    let span = Span { name, origin, thread: thread_number(), scope, start, end };
    let event = Event { time: end, seen_by: SeenBy::Host, body: Body::Span(span) };
    inner.accept_span(event);
}

/// A small number for the calling thread, from 1, in the order in which threads first ask.
fn thread_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    thread_local! {
        static NUMBER: Cell<u32> = const { Cell::new(0) };
    }
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

/// What could not be read of clients' headers, in a sentence.
pub(super) fn unread_sentence() -> Option<String> {
    let count = unread_traceparents();
    (count > 0).then(|| {
        format!("{count} traceparents that could not be read: their scopes have no trace id")
    })
}

impl ScopeGuard {
    /// Which scope; [`ScopeId::NONE`] where nothing is recorded.
    #[must_use]
    pub fn id(&self) -> ScopeId {
        self.open.as_ref().map_or(ScopeId::NONE, OpenScope::id)
    }
}

/// Ends its scope when dropped. Belongs to its thread.
#[derive(Debug)]
#[must_use = "the scope ends when the guard drops"]
pub struct ScopeGuard {
    open: Option<OpenScope>,
    is_inside: bool,
    _not_send: PhantomData<*const ()>,
}

impl Drop for ScopeGuard {
    fn drop(&mut self) {
        if let Some(open) = self.open.take()
            && self.is_inside
        {
            open.leave(0);
        }
    }
}

/// What an [`Instrumented`] future begins with when it is first polled.
#[derive(Debug)]
struct Begin {
    session: Session,
    name: Box<str>,
    trace: Option<TraceContext>,
}

/// A future with a scope: see [`Session::instrument`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Instrumented<F> {
    /// Boxed, so that it can be pinned and dropped early without unsafe code; `None` once it is done.
    future: Option<Pin<Box<F>>>,
    begin: Option<Begin>,
    open: Option<OpenScope>,
}

/// Inside of the scope until it drops, also by a panic.
struct Inside<'a>(Option<&'a OpenScope>);

impl<'a> Inside<'a> {
    fn of(open: Option<&'a OpenScope>) -> Self {
        Self(open.filter(|open| open.enter(0)))
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if let Some(open) = self.0 {
            open.suspend(0);
        }
    }
}

impl<F: Future> Future for Instrumented<F> {
    type Output = F::Output;

    /// Once it is done, and is polled again against the contract of futures, it stays pending.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if let Some(begin) = this.begin.take() {
            this.open = begin.session.open(&begin.name, None, begin.trace);
        }
        let inside = Inside::of(this.open.as_ref());
        let Some(future) = &mut this.future else { return Poll::Pending };
        let outcome = future.as_mut().poll(context);
        if outcome.is_ready() {
            // Its locals may free and launch: that is its work.
            this.future = None;
        }
        drop(inside);
        if outcome.is_ready() {
            this.open = None;
        }
        outcome
    }
}

impl<F> Drop for Instrumented<F> {
    fn drop(&mut self) {
        // A future that is given up drops its locals inside of its scope too.
        let inside = Inside::of(self.open.as_ref());
        self.future = None;
        drop(inside);
    }
}
