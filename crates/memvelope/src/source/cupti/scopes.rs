//! Scopes, told to CUPTI: each thread has a stack of ids, and calls that are recorded carry the top
//! one.
//!
//! Nothing here waits: CUPTI puts a number on a stack of the thread's own, and our locks are leaves.

#![expect(unsafe_code, reason = "calls into libcupti")]

use super::decode::EXTERNAL_KIND;
use super::scope_calls::{Correlation, Readiness, attachments};
use super::session::Run;
use super::state::{Inside, STATE};
use super::{Recorder, lock};
use crate::event::ScopeId;
use cupti_sys::{Cupti, result};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Scopes within scopes that a thread (or a task on it) can have; deeper ones count with the one
/// around them.
const DEPTH_MAX: usize = 64;

/// Scopes that a thread can be inside of at once, those of all its tasks together.
const OPEN_MAX: usize = 4096;

/// Ends that are remembered because they could not be told where they belong.
const ENDS_MAX: usize = 1024;

/// Tasks that wait inside of a scope within their own.
const SUSPENDED_MAX: usize = 1 << 16;

/// A scope that a thread is inside of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    scope: ScopeId,
    /// The task that opened it; 0: the thread itself, around all of its tasks.
    task: u64,
}

/// What a thread is inside of, and what of it CUPTI knows. The first is the truth; whenever it
/// changes, CUPTI's stack is made like it. So scopes may end in any order, tasks may take turns, and
/// scopes that are older than the attachment are told with the next one.
#[derive(Debug)]
struct Stack {
    /// Innermost last.
    open: Vec<Entry>,
    /// CUPTI's stack of this thread, as far as it is ours.
    told: Vec<ScopeId>,
    /// To which attachment.
    attachment: u64,
}

thread_local! {
    static STACK: RefCell<Stack> =
        const { RefCell::new(Stack { open: Vec::new(), told: Vec::new(), attachment: 0 }) };
}

impl Recorder {
    /// Ties what the calling thread launches from now on to `scope`, until [`Self::leave_scope`],
    /// while a recorder is attached: now or later. `task` tells apart tasks that take turns on the
    /// thread: only the scopes of the task that entered or left one last are in force, within those
    /// of task 0, which is the thread itself. `may_call`: the process is not on its way out.
    ///
    /// False if the thread is inside of too many: then there is nothing to leave.
    pub fn enter_scope(scope: ScopeId, task: u64, may_call: bool) -> bool {
        if crate::fork::in_child() {
            return false;
        }
        let run = attached(may_call);
        enter(run.as_deref().map(Run::scopes), scope, task)
    }

    /// Ends what [`Self::enter_scope`] began, with the same numbers.
    pub fn leave_scope(scope: ScopeId, task: u64, may_call: bool) {
        if crate::fork::in_child() {
            return;
        }
        let run = attached(may_call);
        leave(run.as_deref().map(Run::scopes), scope, task);
    }

    /// The same between two steps of a task: what was entered inside of the scope by it, and is open
    /// still, is left as well, and entered again with it.
    pub fn suspend_scope(scope: ScopeId, task: u64, may_call: bool) {
        if crate::fork::in_child() {
            return;
        }
        let run = attached(may_call);
        suspend(run.as_deref().map(Run::scopes), scope, task);
    }

    /// The scope will not be entered again.
    pub fn forget_scope(scope: ScopeId) {
        if !crate::fork::in_child() {
            drop(SUSPENDED.take(scope));
        }
    }

    /// Whether the next [`Self::enter_scope`] has to switch records on first, for which CUPTI takes
    /// longer than callers may want to wait with a lock of theirs: [`Self::prepare_scopes`].
    pub fn is_scope_pending() -> bool {
        Recorder::current().is_some_and(|run| run.correlation.is_pending())
    }

    /// Switches on what ties work to scopes.
    pub fn prepare_scopes() {
        if let Some(run) = attached(true) {
            run.correlation.readiness(&run.cupti);
        }
    }
}

impl Run {
    fn scopes(&self) -> (&Cupti, &Correlation) {
        (&self.cupti, &self.correlation)
    }
}

/// The attachment, if CUPTI may be called at this place.
fn attached(may_call: bool) -> Option<Arc<Run>> {
    if may_call && !Inside::is_inside() { Recorder::current() } else { None }
}

/// From now on what this thread launches belongs to `scope`; `task` says whose scope it is, 0 for
/// the thread's own. False if it is too deep: then there is nothing to leave.
fn enter(cupti: Option<(&Cupti, &Correlation)>, scope: ScopeId, task: u64) -> bool {
    let is_open = with_stack(|stack| {
        forget_orphans(stack);
        let depth = stack.open.iter().filter(|entry| entry.task == task).count();
        let has_room = depth < DEPTH_MAX && stack.open.len() < OPEN_MAX;
        if has_room {
            stack.open.push(Entry { scope, task });
            let inside = SUSPENDED.take(scope);
            stack.open.extend(inside.into_iter().map(|scope| Entry { scope, task }));
        }
        let known = make_known(stack, cupti, task);
        if !has_room || known == Readiness::Beginning {
            STATE.scopes_untold.fetch_add(1, Ordering::Relaxed);
        }
        has_room
    });
    is_open.unwrap_or(false)
}

/// The end of a scope that this thread entered. Scopes need not end in the order in which they
/// began: those entered after it stay. One that another thread entered is taken from that one the
/// next time it enters or leaves any.
fn leave(cupti: Option<(&Cupti, &Correlation)>, scope: ScopeId, task: u64) {
    with_stack(|stack| {
        match stack.open.iter().rposition(|entry| entry.scope == scope) {
            Some(at) => drop(stack.open.remove(at)),
            None => ORPHANS.add(scope, 0),
        }
        forget_orphans(stack);
        make_known(stack, cupti, task);
    });
}

/// The end of a step in `scope`, which goes on with the next [`enter`]: what was entered inside of it
/// by the same task, and is still open, is left with it and comes back with it.
fn suspend(cupti: Option<(&Cupti, &Correlation)>, scope: ScopeId, task: u64) {
    with_stack(|stack| {
        match stack.open.iter().rposition(|entry| entry.scope == scope) {
            Some(at) => {
                let mut rest = stack.open.split_off(at);
                let inside = rest.extract_if(1.., |entry| entry.task == task);
                SUSPENDED.keep(scope, inside.map(|entry| entry.scope).collect());
                stack.open.extend(rest.into_iter().skip(1));
            }
            None => ORPHANS.add(scope, 0),
        }
        forget_orphans(stack);
        make_known(stack, cupti, task);
    });
}

/// `None` on a thread whose locals are gone already (it ends, and its stack with it), and in a call
/// from within CUPTI's own.
fn with_stack<T>(body: impl FnOnce(&mut Stack) -> T) -> Option<T> {
    STACK.try_with(|stack| Some(body(&mut *stack.try_borrow_mut().ok()?))).ok()?
}

/// Makes CUPTI's stack what this thread is inside of while `task` runs.
fn make_known(stack: &mut Stack, cupti: Option<(&Cupti, &Correlation)>, task: u64) -> Readiness {
    let Stack { open, told, attachment } = stack;
    // What is not there need not be switched on.
    let asked = cupti.filter(|_| !open.is_empty() || !told.is_empty());
    let readiness = asked.map_or(Readiness::No, |(cupti, it)| it.readiness(cupti));
    let ready = asked.filter(|_| readiness == Readiness::Ready);
    let Some((cupti, correlation)) = ready else {
        // CUPTI's stack keeps what was told, and may not be touched.
        let is_gone = |scope: &&ScopeId| open.iter().all(|entry| entry.scope != **scope);
        told.iter().filter(is_gone).for_each(|scope| ENDED_UNTOLD.add(*scope, *attachment));
        return readiness;
    };
    if *attachment != correlation.attachment {
        // CUPTI's stack may or may not have outlived the end of the last attachment.
        pop(cupti, told.len());
        ENDED_UNTOLD.remove(told);
        told.clear();
        *attachment = correlation.attachment;
    }
    let wanted = || open.iter().filter(|entry| entry.task == 0 || entry.task == task);
    let same = wanted().zip(&*told).take_while(|(entry, scope)| entry.scope == **scope).count();
    pop(cupti, told.len() - same);
    told.truncate(same);
    for entry in wanted().skip(same) {
        if !push(cupti, entry.scope) {
            STATE.scopes_untold.fetch_add(1, Ordering::Relaxed);
            break;
        }
        told.push(entry.scope);
    }
    readiness
}

fn push(cupti: &Cupti, scope: ScopeId) -> bool {
    let Ok(push) = cupti.activity_push_external_correlation_id else { return false };
    // SAFETY: CUPTI is attached; the call takes two numbers.
    unsafe { push(EXTERNAL_KIND, scope.0) == result::SUCCESS }
}

fn pop(cupti: &Cupti, count: usize) {
    let Ok(pop) = cupti.activity_pop_external_correlation_id else { return };
    for _ in 0..count {
        let mut last = 0;
        // SAFETY: CUPTI is attached; it writes one u64. An empty stack is an error, and no harm.
        unsafe { pop(EXTERNAL_KIND, &raw mut last) };
    }
}

/// Ends that somebody else has to take notice of, the latest [`ENDS_MAX`].
struct Ends {
    is_empty: AtomicBool,
    list: Mutex<Vec<(ScopeId, u64)>>,
}

/// Scopes that ended on another thread than the one that entered them.
static ORPHANS: Ends = Ends::new();

/// Scopes that ended when CUPTI could not be told: their ids may lie on its stack of a thread, and
/// what that thread launches in a later attachment is not theirs.
static ENDED_UNTOLD: Ends = Ends::new();

impl Ends {
    const fn new() -> Self {
        Self { is_empty: AtomicBool::new(true), list: Mutex::new(Vec::new()) }
    }

    fn add(&self, scope: ScopeId, attachment: u64) {
        let mut list = lock(&self.list);
        if list.contains(&(scope, attachment)) {
            return;
        }
        if list.len() >= ENDS_MAX {
            list.remove(0);
        }
        list.push((scope, attachment));
        self.is_empty.store(false, Ordering::Release);
    }

    fn remove(&self, scopes: &[ScopeId]) {
        if scopes.is_empty() || self.is_empty.load(Ordering::Acquire) {
            return;
        }
        let mut list = lock(&self.list);
        list.retain(|(scope, _)| !scopes.contains(scope));
        self.is_empty.store(list.is_empty(), Ordering::Release);
    }
}

/// Scopes between two steps with others inside of them.
struct Suspended {
    is_empty: AtomicBool,
    inside: Mutex<BTreeMap<ScopeId, Vec<ScopeId>>>,
}

static SUSPENDED: Suspended =
    Suspended { is_empty: AtomicBool::new(true), inside: Mutex::new(BTreeMap::new()) };

impl Suspended {
    fn keep(&self, scope: ScopeId, inside: Vec<ScopeId>) {
        if inside.is_empty() {
            return;
        }
        let mut all = lock(&self.inside);
        if all.len() >= SUSPENDED_MAX {
            // They are not entered again: their work counts with the one around.
            STATE.scopes_untold.fetch_add(inside.len() as u64, Ordering::Relaxed);
            return;
        }
        all.insert(scope, inside);
        self.is_empty.store(false, Ordering::Release);
    }

    fn take(&self, scope: ScopeId) -> Vec<ScopeId> {
        if self.is_empty.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut all = lock(&self.inside);
        let inside = all.remove(&scope).unwrap_or_default();
        self.is_empty.store(all.is_empty(), Ordering::Release);
        inside
    }
}

/// Leaves the scopes that ended on other threads.
fn forget_orphans(stack: &mut Stack) {
    if ORPHANS.is_empty.load(Ordering::Acquire) || stack.open.is_empty() {
        return;
    }
    let mut orphans = lock(&ORPHANS.list);
    stack.open.retain(|entry| match orphans.iter().position(|(scope, _)| *scope == entry.scope) {
        Some(at) => {
            orphans.swap_remove(at);
            false
        }
        None => true,
    });
    ORPHANS.is_empty.store(orphans.is_empty(), Ordering::Release);
}

/// Scopes that ended in earlier attachments and may still be told.
pub(super) fn ended_before() -> Vec<ScopeId> {
    if ENDED_UNTOLD.is_empty.load(Ordering::Acquire) {
        return Vec::new();
    }
    let now = attachments();
    let ended = lock(&ENDED_UNTOLD.list);
    ended.iter().filter(|(_, attachment)| *attachment < now).map(|(scope, _)| *scope).collect()
}
