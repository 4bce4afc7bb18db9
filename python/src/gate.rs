//! `Gate`: who may run.

use crate::convert::{amount, from_json, plain, small_amount};
use crate::envelope::Envelope;
use crate::errors::{guarded, internal, raised, refused, rejected};
use crate::lease::{Lease, grow_many};
use crate::options::config;
use crate::plan::Plan;
use crate::request::request;
use crate::ticket::Ticket;
use memvelope::admission::{self, GateConfig, Reason, Usage};
use memvelope::units::{Blocks, CostCurve, Nanos};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use serde_json::{Value, json};

/// Says whether a sequence still fits, and hands out leases on blocks.
///
/// Thread-safe. Its calls take well under a microsecond, so they keep the interpreter lock:
/// releasing it would cost more than they do.
#[pyclass(frozen, module = "memvelope")]
pub(crate) struct Gate {
    inner: admission::Gate,
}

#[pymethods]
impl Gate {
    /// A gate on the blocks that an envelope leaves for the KV cache.
    ///
    /// `policy`: "banker" admits, and lets leases grow, while some order of completion lets every
    /// lease reach its claim; growth may have to wait. "guaranteed" admits while all claims fit,
    /// and no lease ever waits. "optimistic" admits what fits now and guarantees nothing, for
    /// engines that preempt by themselves.
    ///
    /// `max_model_len` (tokens): the longest sequence, prompt + output, ever admitted.
    /// `max_new_tokens_default` (tokens) stands in for requests that declare no maximum; without it
    /// they claim up to `max_model_len`. "guaranteed" and "banker" need one of the two. `pools`
    /// maps names of sub-budgets to their shares of the capacity, or to `{"share": int,
    /// "floor_percent": int}`: so much of its share a pool never lends (100 unless given).
    /// `estimate`: whether "banker" stops admitting where what runs is expected to need the room,
    /// with `margin` standard deviations kept (2). `watermark`: share of the capacity, 0 to 1, that
    /// "optimistic" keeps free at admission. `queue_max`, `leases_max`: most requests that wait
    /// (65,536), most live leases (2**20). `silent_max_ns`: a lease that was not heard of for so
    /// long, on the clock of `tick`, is taken back (never, unless given); it is heard of when it
    /// asks for a new block. `books`: keep them even under "guaranteed", which then takes a lock,
    /// and has `outcomes()`, `victims()`, and the smallest need grow first after the budget shrank.
    ///
    /// Raises `ConfigureGateError`, and `TypeError` or `ValueError` for what is no such argument.
    #[new]
    #[pyo3(signature = (envelope, policy=None, **keywords))]
    #[pyo3(
        text_signature = "(envelope, policy='banker', *, max_model_len=None, max_new_tokens_default=None, pools=None, estimate=True, margin=None, watermark=0.0, queue_max=None, leases_max=None, silent_max_ns=None, books=False)"
    )]
    fn new(
        py: Python<'_>,
        envelope: &Bound<'_, PyAny>,
        policy: Option<&str>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        guarded(|| {
            let Ok(envelope) = envelope.cast::<Envelope>() else {
                let found = envelope.get_type().name()?;
                return Err(PyTypeError::new_err(format!(
                    "envelope: expected a memvelope.Envelope, not {found}; a budget in blocks goes \
                     to Gate.from_blocks(capacity_blocks)"
                )));
            };
            let inner = envelope.get().inner();
            let capacity = inner.kv_capacity_blocks;
            Self::build(py, config(capacity, inner.curve, None, policy, keywords)?)
        })
    }

    /// A gate on a declared number of blocks: needs no model and no driver. The rest is as in
    /// `Gate(envelope)`.
    #[staticmethod]
    #[pyo3(signature = (capacity_blocks, block_tokens=None, policy=None, **keywords))]
    #[pyo3(
        text_signature = "(capacity_blocks, block_tokens=16, policy='banker', *, max_model_len=None, max_new_tokens_default=None, pools=None, estimate=True, margin=None, watermark=0.0, queue_max=None, leases_max=None, silent_max_ns=None, books=False)"
    )]
    fn from_blocks(
        py: Python<'_>,
        capacity_blocks: &Bound<'_, PyAny>,
        block_tokens: Option<&Bound<'_, PyAny>>,
        policy: Option<&str>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        guarded(|| {
            let capacity = Blocks(amount("capacity_blocks", "blocks", capacity_blocks)?);
            let block_tokens = block_tokens.map_or(Ok(BLOCK_TOKENS_DEFAULT), |object| {
                small_amount("block_tokens", "tokens", object)
            })?;
            let curve = CostCurve::new(block_tokens, 0).ok_or_else(|| {
                PyValueError::new_err("block_tokens=0: a block holds at least one token")
            })?;
            Self::build(py, config(capacity, curve, None, policy, keywords)?)
        })
    }

    /// A gate on the blocks that a plan leaves: all but the null block, which the engine never
    /// hands out.
    ///
    /// A sequence takes exactly what the engine says of its length: layers that keep a window of it
    /// grow no further once it is longer than that. `max_model_len` is the plan's unless told
    /// otherwise. The rest is as in `Gate(envelope)`.
    ///
    /// Raises `PlanRefused`, and `ValueError` for a plan without an engine, which has no blocks.
    #[staticmethod]
    #[pyo3(signature = (plan, policy=None, **keywords))]
    #[pyo3(
        text_signature = "(plan, policy='banker', *, max_model_len=None, max_new_tokens_default=None, pools=None, estimate=True, margin=None, watermark=0.0, queue_max=None, leases_max=None, silent_max_ns=None, books=False)"
    )]
    fn from_plan(
        py: Python<'_>,
        plan: &Bound<'_, PyAny>,
        policy: Option<&str>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        guarded(|| {
            let Ok(plan) = plan.cast::<Plan>() else {
                let found = plan.get_type().name()?;
                let text = format!("plan: expected a memvelope.Plan, not {found}");
                return Err(PyTypeError::new_err(text));
            };
            let plan = plan.get();
            if let Some(refusal) = &plan.inner().refused {
                return Err(refused(py, refusal));
            }
            let (Some(blocks), Some(curve)) = (plan.inner().num_gpu_blocks, plan.curve()) else {
                let text = "plan: has no blocks, since no engine was planned for; a gate counts \
                            in blocks";
                return Err(PyValueError::new_err(text));
            };
            let (capacity, longest) =
                (blocks.saturating_sub(Blocks(1)), plan.inner().max_model_len);
            Self::build(py, config(capacity, curve, longest, policy, keywords)?)
        })
    }

    /// Admits a sequence of `prompt_tokens` that will produce at most `max_new_tokens`, or returns
    /// `None`. `admit` says why.
    ///
    /// `pool`: name of its sub-budget; the first unless told. `klass`: label whose past output
    /// lengths feed the estimate. `prefix`: `(id, tokens)`, a beginning of the prompt whose blocks
    /// leases of the same id share; the id is an int (modulo 2**64), or bytes or a str (hashed).
    ///
    /// The lease holds the prompt's blocks at once and claims the rest; it is released by
    /// `release()`, at the end of its `with` block, or when it is collected.
    #[pyo3(signature = (prompt_tokens, max_new_tokens=None, pool=None, klass=None, *, prefix=None))]
    fn try_admit(
        &self,
        prompt_tokens: &Bound<'_, PyAny>,
        max_new_tokens: Option<&Bound<'_, PyAny>>,
        pool: Option<&str>,
        klass: Option<&str>,
        prefix: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<Py<Lease>>> {
        // The object is made in here, so that a pointer comes back through `guarded` instead of a
        // lease, which would be moved three times on its way.
        guarded(|| {
            let request = request(prompt_tokens, max_new_tokens, pool, klass, prefix)?;
            match self.inner.try_admit(&request) {
                Ok(lease) => Py::new(prompt_tokens.py(), Lease::new(lease)).map(Some),
                Err(_) => Ok(None),
            }
        })
    }

    /// Admits like `try_admit`, and raises `Rejected` with the reason instead of returning `None`.
    #[pyo3(signature = (prompt_tokens, max_new_tokens=None, pool=None, klass=None, *, prefix=None))]
    fn admit(
        &self,
        prompt_tokens: &Bound<'_, PyAny>,
        max_new_tokens: Option<&Bound<'_, PyAny>>,
        pool: Option<&str>,
        klass: Option<&str>,
        prefix: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Lease> {
        guarded(|| {
            let request = request(prompt_tokens, max_new_tokens, pool, klass, prefix)?;
            match self.inner.try_admit(&request) {
                Ok(lease) => Ok(Lease::new(lease)),
                Err(rejection) => Err(rejected(prompt_tokens.py(), &rejection)),
            }
        })
    }

    /// Waits in the queue until the sequence is admitted: `lease = await gate.wait_admit(...)`, on
    /// any asyncio loop, in any thread. Arguments are those of `try_admit`.
    ///
    /// Requests of a pool come in strictly in order of arrival, each step of `priority` (0 to 255)
    /// counting as one second of earlier arrival on the clock of `tick`, or as forty steps
    /// (`grow_many`, `step`) without ticks. After `timeout` seconds, on the clock of the loop, it
    /// raises `Rejected` with reason "expired"; it raises at once for what can never be admitted,
    /// and "queue_full". A cancelled task gives its place up, and the lease with it if that had
    /// been granted already.
    #[pyo3(signature = (*args, **keywords))]
    #[pyo3(
        text_signature = "($self, prompt_tokens, max_new_tokens=None, pool=None, klass=None, *, prefix=None, timeout=None, priority=0)"
    )]
    fn wait_admit<'py>(
        slf: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        keywords: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        static WAIT_ADMIT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        guarded(|| {
            let wait_admit = WAIT_ADMIT.import(slf.py(), "memvelope._wait", "wait_admit")?;
            let args = std::iter::once(slf.clone().into_any()).chain(args.iter());
            wait_admit.call(PyTuple::new(slf.py(), args.collect::<Vec<_>>())?, keywords)
        })
    }

    /// A place in the queue, for `wait_admit`.
    #[pyo3(signature = (prompt_tokens, max_new_tokens, pool, klass, prefix, priority))]
    fn _enqueue(
        &self,
        prompt_tokens: &Bound<'_, PyAny>,
        max_new_tokens: Option<&Bound<'_, PyAny>>,
        pool: Option<&str>,
        klass: Option<&str>,
        prefix: Option<&Bound<'_, PyAny>>,
        priority: &Bound<'_, PyAny>,
    ) -> PyResult<Ticket> {
        guarded(|| {
            let steps = amount("priority", "steps", priority)?;
            let priority = u8::try_from(steps).map_err(|_| {
                PyValueError::new_err(format!("priority={steps}: expected 0 to 255"))
            })?;
            let request = request(prompt_tokens, max_new_tokens, pool, klass, prefix)?;
            // Deadlines are the caller's, on the clock of its loop.
            match self.inner.enqueue(&request, priority, None) {
                Ok(ticket) => Ok(Ticket::new(ticket)),
                Err(rejection) => Err(rejected(prompt_tokens.py(), &rejection)),
            }
        })
    }

    /// Grows every lease by `tokens` in one call: one byte of answer each, 1 granted, 0 wait, 2
    /// refused (past its maximum, or released). Marks a step of the engine, as `step` does, first.
    ///
    /// A lease that is listed twice grows twice. Leases of other gates grow in theirs, whose step
    /// is not marked. Raises `TypeError` before anything changed if one is no lease.
    #[pyo3(signature = (leases, tokens=None), text_signature = "($self, leases, tokens=1)")]
    fn grow_many<'py>(
        &self,
        leases: &Bound<'py, PyAny>,
        tokens: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        guarded(|| grow_many(leases, tokens, || self.inner.step()))
    }

    /// What the gate would answer to a request now, from which numbers, and what would have changed
    /// it, as a dict; its "text" says it to people. Nothing changes. Takes tens of microseconds.
    #[pyo3(signature = (prompt_tokens, max_new_tokens=None, pool=None, klass=None, *, prefix=None))]
    fn explain<'py>(
        &self,
        prompt_tokens: &Bound<'py, PyAny>,
        max_new_tokens: Option<&Bound<'py, PyAny>>,
        pool: Option<&str>,
        klass: Option<&str>,
        prefix: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| {
            let request = request(prompt_tokens, max_new_tokens, pool, klass, prefix)?;
            let why = self.inner.explain(&request);
            let mut fields = serde_json::to_value(&why).map_err(internal)?;
            if let Value::Object(fields) = &mut fields {
                // Units are in the names at this edge.
                fields.remove("retry_after");
                let after_s = why.retry_after.map(|after| after.to_duration().as_secs_f64());
                fields.insert("retry_after_ns".into(), json!(why.retry_after));
                fields.insert("retry_after_s".into(), json!(after_s));
                fields.insert("text".into(), json!(why.to_string()));
            }
            from_json(prompt_tokens.py(), &fields)
        })
    }

    /// What came of requests and leases so far, as histograms: lists of pairs, the first value
    /// beyond a bucket and its count, doubling from bucket to bucket. `released_tokens` and
    /// `preempted_tokens` (output), `waits` and `unused_blocks` of the leases that ended,
    /// `short_blocks` of rejections, `queue_ns` in the queue. Empty for a gate that keeps no books
    /// (policy "guaranteed" without pools that lend).
    fn outcomes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &self.inner.outcomes()))
    }

    /// Leases of pools that are overcommitted (under "optimistic": full), the cheapest to preempt
    /// first, as dicts; `serial` is the lease's, and `is_enough` says whether this one and all
    /// before it free enough. Looks at every lease.
    fn victims<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &self.inner.victims()))
    }

    /// Sets the capacity in blocks. Epochs order concurrent writers: a stale epoch changes nothing
    /// and returns `False`. No lease is revoked: below what is held or safe the gate is
    /// overcommitted, admits nothing, names `victims()`, and recovers by itself.
    fn set_capacity(&self, blocks: &Bound<'_, PyAny>, epoch: &Bound<'_, PyAny>) -> PyResult<bool> {
        guarded(|| {
            let blocks = Blocks(amount("blocks", "blocks", blocks)?);
            let epoch = amount("epoch", "epochs", epoch)?;
            Ok(self.inner.set_capacity(blocks, epoch))
        })
    }

    /// Marks a step of the engine: brings the estimate up to date. `tick` and `grow_many` do, too.
    fn step(&self) -> PyResult<()> {
        guarded(|| {
            self.inner.step();
            Ok(())
        })
    }

    /// Marks a step of the engine at a time (`time.monotonic_ns()` will do): `retry_after` and the
    /// order of the queue are made of it.
    fn tick(&self, now_ns: &Bound<'_, PyAny>) -> PyResult<()> {
        guarded(|| {
            self.inner.tick(Nanos(amount("now_ns", "nanoseconds", now_ns)?));
            Ok(())
        })
    }

    /// What is handed out, over all pools, as a dict; `rejected` counts by reason.
    fn usage<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| usage_dict(py, &self.inner.usage()))
    }

    /// What is handed out in one pool, as `usage()` says it of all. Raises `ValueError` for a pool
    /// that is not there.
    fn pool_usage<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| match self.inner.pool_usage(name) {
            Some(usage) => usage_dict(py, &usage),
            None => {
                let known = self.inner.pool_names().join(", ");
                Err(PyValueError::new_err(format!("no pool is named {name:?}; there is {known}")))
            }
        })
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            let usage = self.inner.usage();
            Ok(format!(
                "<memvelope.Gate capacity_blocks={} claimed_blocks={} held_blocks={} leases={}>",
                usage.capacity_blocks.0, usage.claimed_blocks.0, usage.held_blocks.0, usage.leases
            ))
        })
    }
}

/// vLLM's usual block, the default of [`memvelope::envelope::Declared`] too.
const BLOCK_TOKENS_DEFAULT: u32 = 16;

impl Gate {
    pub(crate) const fn inner(&self) -> &admission::Gate {
        &self.inner
    }

    fn build(py: Python<'_>, config: GateConfig) -> PyResult<Self> {
        let inner = admission::Gate::new(config).map_err(|error| raised(py, &error))?;
        Ok(Self { inner })
    }
}

fn usage_dict<'py>(py: Python<'py>, usage: &Usage) -> PyResult<Bound<'py, PyAny>> {
    let dict = plain(py, usage)?;
    let by_reason = PyDict::new(py);
    for (reason, count) in Reason::ALL.into_iter().zip(usage.rejected) {
        by_reason.set_item(reason.label(), count)?;
    }
    dict.set_item("rejected", by_reason)?;
    Ok(dict)
}
