//! Gates that follow the measured envelope.
//!
//! The poll thread does it, once a period, after it asked the planes: it has no thread of its own. A
//! follower's state has a lock, which is a leaf but for the gate's own; it is not held when the gate
//! is told its capacity, since that wakes whoever waits there.

use super::state::Inner;
use super::{Mode, Role, Session};
use crate::admission::Gate;
use crate::envelope::{
    Declared, Envelope, FollowSettings, Follower, Plan, Reading, Step, TermName, Why,
};
use crate::error::{Error, Result};
use crate::event::DeviceIndex;
use crate::snapshot::Snapshot;
use crate::units::{Blocks, Bytes, Nanos};
use serde::Serialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

/// Followers of one session at most; a gate needs one.
const FOLLOWERS_MAX: usize = 256;

/// What a gate follows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FollowConfig {
    /// The device whose memory the gate's blocks lie in. Default: the first.
    pub device: DeviceIndex,
    /// What is compared with the device: see [`Envelope::measure`].
    pub plan: Envelope,
    /// What overrules the plan.
    pub declared: Declared,
    /// The declared budget: the most that the gate is ever told. Default: the plan's capacity.
    pub budget: Blocks,
    /// Blocks that are there and never handed out (vLLM's null block). Default 0.
    pub aside: Blocks,
    /// How fast.
    pub settings: FollowSettings,
}

impl FollowConfig {
    /// Follows what an equation says of the first device.
    #[must_use]
    pub fn new(plan: Envelope) -> Self {
        Self {
            device: DeviceIndex(0),
            budget: plan.kv_capacity_blocks,
            plan,
            declared: Declared::default(),
            aside: Blocks::ZERO,
            settings: FollowSettings::default(),
        }
    }

    /// Follows an engine's plan, in the blocks that its gate has: all but the null block.
    ///
    /// # Errors
    /// [`Error::ConfigureGate`] for a plan without blocks or without an equation.
    pub fn of_plan(plan: &Plan) -> Result<Self> {
        const NULL_BLOCK: Blocks = Blocks(1);
        let problem = |problem: &str| Error::ConfigureGate {
            argument: "plan",
            problem: format!("{problem}, so that nothing can be measured against it"),
        };
        let Some(equation) = plan.equation.clone() else {
            return Err(problem("has no equation (its KV memory was declared, or it was refused)"));
        };
        let Some(blocks) = plan.num_gpu_blocks.filter(|_| plan.bytes_per_block.is_some()) else {
            return Err(problem("has no blocks, since no engine was planned for"));
        };
        let budget = blocks.saturating_sub(NULL_BLOCK);
        Ok(Self { budget, aside: NULL_BLOCK, ..Self::new(equation) })
    }

    /// What a snapshot measures, or why it measures nothing.
    fn measured(&self, snapshot: &Snapshot) -> Result<Moment, &'static str> {
        let device = snapshot.device(self.device).ok_or("the device was not seen yet")?;
        if device.free_bytes.is_none() && device.balance.is_none() {
            return Err("nobody told what is free on the device");
        }
        let is_told = device.framework.is_some() || self.declared.kv_untagged.is_some();
        if device.allocations_unseen && !is_told {
            return Err("single allocations go unseen: how much of what is used is KV cache was \
                        not declared, and nobody can tell");
        }
        let measured = self.plan.measure(device, &self.declared);
        let envelope = measured.map_err(|_| "the driver told no total")?.envelope;
        let balance = device.balance.as_ref();
        Ok(Moment {
            reads: device.reads,
            blocks: envelope.kv_capacity_blocks.saturating_sub(self.aside),
            is_torn: balance.is_some_and(|balance| balance.is_torn),
            has_framework: device.framework.is_some(),
            kv_bytes: envelope
                .term(TermName::KvCache)
                .and_then(|term| u64::try_from(term.bytes?).ok())
                .map(Bytes),
        })
    }
}

/// A measurement, and how often the device had been read by then.
struct Moment {
    reads: u64,
    blocks: Blocks,
    is_torn: bool,
    has_framework: bool,
    kv_bytes: Option<Bytes>,
}

/// Where a follower stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FollowStatus {
    /// The capacity in force: what the gate was told last.
    pub capacity_blocks: Blocks,
    /// The declared budget.
    pub budget_blocks: Blocks,
    /// What the last reading measured, whether or not it was taken; `None` without one.
    pub measured_blocks: Option<Blocks>,
    /// Of which, KV bytes in use; `None` where none were told.
    pub kv_bytes: Option<Bytes>,
    /// The last reading that was neither absent nor torn.
    pub good_blocks: Option<Blocks>,
    /// What came of the last reading.
    pub why: Why,
    /// Why nothing was measured; empty if something was.
    pub problem: String,
    /// Epochs read.
    pub readings: u64,
    /// Of these, torn ones.
    pub torn: u64,
    /// Times that the gate was told another capacity.
    pub changes: u64,
}

/// A gate follows the measured envelope until this is dropped; what it has then, it keeps.
///
/// The gate's capacity belongs to the follower meanwhile: what others set is overruled when the
/// follower next changes it. A change that the poll thread was just making may still come after the
/// drop.
#[derive(Debug)]
#[must_use = "dropping this ends the following"]
pub struct Follow {
    shared: Arc<Shared>,
    session: Session,
}

impl Follow {
    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> FollowStatus {
        self.shared.status()
    }

    /// Takes the session's latest epoch now rather than at the next poll, without asking any plane
    /// (see [`Session::sample`]); an epoch that was taken before changes nothing. For tests, and for
    /// whoever follows by hand.
    pub fn update(&self) -> FollowStatus {
        match &self.session.role {
            _ if !self.shared.goes_on() => {}
            Role::Own(inner) if !inner.is_awake() => {}
            Role::Own(inner) => update(inner, std::slice::from_ref(&self.shared)),
            Role::Client(client) => match client.mode() {
                Mode::Blind(_) => self.shared.take_absent("the copy that records sees nothing"),
                _ => self.shared.take(&client.snapshot()),
            },
        }
        self.status()
    }

    /// Ends it, as dropping does; where it stood can still be asked.
    pub fn stop(&self) {
        self.shared.is_ended.store(true, Ordering::Release);
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Session {
    /// Lets a gate follow the measured envelope: at each poll period its capacity becomes what the
    /// device has room for, downwards at once, upwards when it lasted ([`Follower`]), never above
    /// the declared budget. If recording is switched off by a broken invariant, the gate keeps the
    /// smaller of what was good last and the budget.
    ///
    /// Begins with the latest epoch at once. From then on a gate that has more than the budget has
    /// the budget.
    ///
    /// # Errors
    /// [`Error::ConfigureGate`] where another copy of memvelope records, whose poll thread knows
    /// nothing of this gate (see [`Self::follow_by_hand`]), and past 256 followers.
    pub fn follow(&self, gate: &Gate, config: FollowConfig) -> Result<Follow> {
        let problem = |problem: &str| {
            Err(Error::ConfigureGate { argument: "follow", problem: problem.to_owned() })
        };
        let Some(inner) = self.own() else {
            return problem(
                "another copy of memvelope in this process records, and polls for itself\nhint: \
                 follow by hand, and update it in the engine's loop",
            );
        };
        let follow = self.follow_by_hand(gate, config);
        if inner.is_awake() && !inner.followers.add(&follow.shared) {
            return problem("too many gates follow this session already (256)");
        }
        let _ = follow.update();
        Ok(follow)
    }

    /// The same without the poll thread: the gate follows when [`Follow::update`] is called.
    pub fn follow_by_hand(&self, gate: &Gate, config: FollowConfig) -> Follow {
        Follow { shared: Arc::new(Shared::new(gate, config)), session: self.clone() }
    }
}

/// The followers of a session. A leaf lock, held to look and to add.
#[derive(Debug, Default)]
pub(super) struct Followers {
    list: Mutex<Vec<Weak<Shared>>>,
}

impl Followers {
    fn add(&self, shared: &Arc<Shared>) -> bool {
        let mut list = lock(&self.list);
        list.retain(is_live);
        let has_room = list.len() < FOLLOWERS_MAX;
        if has_room {
            list.push(Arc::downgrade(shared));
        }
        has_room
    }

    fn live(&self) -> Vec<Arc<Shared>> {
        lock(&self.list)
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|shared| shared.goes_on())
            .collect()
    }
}

fn is_live(shared: &Weak<Shared>) -> bool {
    shared.upgrade().is_some_and(|shared| shared.goes_on())
}

/// What guard and poll thread share.
#[derive(Debug)]
struct Shared {
    gate: Gate,
    config: FollowConfig,
    begin: Instant,
    is_ended: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    follower: Follower,
    status: FollowStatus,
    /// How often the device had been read when it was taken last.
    taken: Option<u64>,
    /// Whether a framework was told once. Without it, the KV cache inside of its segments is nobody's.
    has_framework: bool,
    /// Of our last word to the gate.
    epoch: u64,
    /// Whether the gate still has to be told what is in force.
    is_due: bool,
}

impl Shared {
    fn new(gate: &Gate, config: FollowConfig) -> Self {
        // What the gate has already may be less than the budget: more is a rise, and has to last.
        let usage = gate.usage();
        let capacity = usage.capacity_blocks;
        let follower = Follower::new(config.budget, config.settings).starting_at(capacity);
        let status = FollowStatus {
            capacity_blocks: follower.in_force(),
            budget_blocks: config.budget,
            measured_blocks: None,
            kv_bytes: None,
            good_blocks: None,
            why: Why::Absent,
            problem: "nothing was measured yet".into(),
            readings: 0,
            torn: 0,
            changes: 0,
        };
        let is_due = follower.in_force() != capacity;
        let state = State {
            follower,
            status,
            taken: None,
            has_framework: false,
            epoch: usage.epoch,
            is_due,
        };
        Self {
            gate: gate.clone(),
            config,
            begin: Instant::now(),
            is_ended: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    fn goes_on(&self) -> bool {
        !self.is_ended.load(Ordering::Acquire)
    }

    fn status(&self) -> FollowStatus {
        lock(&self.state).status.clone()
    }

    /// Takes the epoch of a snapshot, once.
    fn take(&self, snapshot: &Snapshot) {
        let moment = match self.config.measured(snapshot) {
            Ok(moment) => moment,
            Err(why) => return self.take_absent(why),
        };
        let mut state = lock(&self.state);
        // What was read once is no evidence that it lasted: a lost device keeps its last epoch.
        if state.taken.replace(moment.reads) == Some(moment.reads) {
            return self.tell(state);
        }
        if state.has_framework && !moment.has_framework {
            drop(state);
            return self.take_absent(
                "the framework plane was not told since the driver plane moved: what of its \
                 segments is KV cache, nobody can tell",
            );
        }
        state.has_framework |= moment.has_framework;
        let reading =
            Reading { time: self.elapsed(), blocks: Some(moment.blocks), is_torn: moment.is_torn };
        let step = state.follower.next(&reading);
        state.status.readings += 1;
        state.status.torn += u64::from(moment.is_torn);
        state.status.measured_blocks = Some(moment.blocks);
        state.status.kv_bytes = moment.kv_bytes;
        state.status.problem.clear();
        self.step(state, step);
    }

    fn take_absent(&self, why: &str) {
        let mut state = lock(&self.state);
        let reading = Reading { time: self.elapsed(), ..Reading::default() };
        let step = state.follower.next(&reading);
        state.status.measured_blocks = None;
        state.status.kv_bytes = None;
        why.clone_into(&mut state.status.problem);
        self.step(state, step);
    }

    /// The session is broken: what was good last is in force, and stays.
    fn fall_back(&self) {
        let mut state = lock(&self.state);
        let step = state.follower.fall_back();
        "recording was switched off".clone_into(&mut state.status.problem);
        self.step(state, step);
    }

    fn step(&self, mut state: MutexGuard<'_, State>, step: Step) {
        state.status.why = step.why;
        state.status.capacity_blocks = state.follower.in_force();
        state.status.good_blocks = state.follower.last_good();
        state.is_due |= step.set.is_some();
        self.tell(state);
    }

    /// Tells the gate what is in force, if it is due. The epoch is chosen under the lock: of two
    /// threads that tell it, the one that was told later is the one that counts.
    fn tell(&self, mut state: MutexGuard<'_, State>) {
        if !state.is_due || !self.goes_on() {
            return;
        }
        let usage = self.gate.usage();
        let epoch = usage.epoch.max(state.epoch).saturating_add(1);
        let mut blocks = state.follower.in_force();
        if state.status.why == Why::Broken {
            // Whoever lowered it meanwhile knew why; nothing rises without a good reading.
            blocks = blocks.min(usage.capacity_blocks);
        }
        (state.is_due, state.epoch) = (false, epoch);
        drop(state);
        // It wakes whoever waits at the gate, who are not ours: what they do wrong is not our end.
        let told = catch_unwind(AssertUnwindSafe(|| self.gate.set_capacity(blocks, epoch)));
        let mut state = lock(&self.state);
        if matches!(told, Ok(false)) && state.epoch == epoch {
            // Somebody else was faster: again with the next reading.
            state.is_due = true;
        } else {
            state.status.changes += 1;
        }
    }

    fn elapsed(&self) -> Nanos {
        Nanos(u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Called by the poll thread once a period, after the planes were asked.
pub(super) fn tick(inner: &Inner) {
    let followers = inner.followers.live();
    if !followers.is_empty() {
        update(inner, &followers);
    }
}

fn update(inner: &Inner, followers: &[Arc<Shared>]) {
    let measured = catch_unwind(AssertUnwindSafe(|| {
        if !inner.is_broken() {
            let snapshot = inner.snapshot();
            followers.iter().for_each(|shared| shared.take(&snapshot));
        }
    }));
    if measured.is_err() {
        inner.break_off("following panicked");
    }
    if inner.is_broken() {
        followers.iter().for_each(|shared| shared.fall_back());
    }
}

/// What our locks guard is consistent after every statement, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
