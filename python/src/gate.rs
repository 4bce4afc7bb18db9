//! `Gate` and `Lease`.

use crate::convert::{amount, count, optional_amount, plain, small_amount};
use crate::envelope::Envelope;
use crate::errors::{LeaseReleased, guarded, past_maximum, raised, refused, rejected};
use crate::plan::Plan;
use memvelope::admission::{self, GateConfig, PoolConfig, Reason, Rejection};
use memvelope::units::{Blocks, CostCurve, Nanos, Tokens};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Says whether a sequence still fits, and hands out leases on blocks.
///
/// Thread-safe and lock-free. Its calls take well under a microsecond, so they keep the interpreter
/// lock: releasing it would cost more than they do.
#[pyclass(frozen, module = "memvelope")]
pub(crate) struct Gate {
    inner: admission::Gate,
}

#[pymethods]
impl Gate {
    /// A gate on the blocks that an envelope leaves for the KV cache.
    ///
    /// `max_new_tokens_default` stands in for requests that declare no maximum; without it they are
    /// rejected. `max_tokens` is the longest sequence (prompt + output) ever admitted. `pools` maps
    /// names of sub-budgets to their shares of the capacity.
    #[new]
    #[pyo3(signature = (envelope, *, max_new_tokens_default=None, max_tokens=None, pools=None))]
    fn new(
        py: Python<'_>,
        envelope: &Bound<'_, PyAny>,
        max_new_tokens_default: Option<&Bound<'_, PyAny>>,
        max_tokens: Option<&Bound<'_, PyAny>>,
        pools: Option<&Bound<'_, PyAny>>,
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
            let mut config = GateConfig::new(inner.kv_capacity_blocks, inner.curve);
            configure(&mut config, max_new_tokens_default, max_tokens, pools)?;
            Self::build(py, config)
        })
    }

    /// A gate on a declared number of blocks: needs no model and no driver.
    #[staticmethod]
    #[pyo3(signature = (
        capacity_blocks, block_tokens=None, max_new_tokens_default=None, max_tokens=None, pools=None
    ))]
    #[pyo3(
        text_signature = "(capacity_blocks, block_tokens=16, max_new_tokens_default=None, max_tokens=None, pools=None)"
    )]
    fn from_blocks(
        py: Python<'_>,
        capacity_blocks: &Bound<'_, PyAny>,
        block_tokens: Option<&Bound<'_, PyAny>>,
        max_new_tokens_default: Option<&Bound<'_, PyAny>>,
        max_tokens: Option<&Bound<'_, PyAny>>,
        pools: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        guarded(|| {
            let capacity = Blocks(amount("capacity_blocks", "blocks", capacity_blocks)?);
            let block_tokens = block_tokens.map_or(Ok(BLOCK_TOKENS_DEFAULT), |object| {
                small_amount("block_tokens", "tokens", object)
            })?;
            let curve = CostCurve::new(block_tokens, 0).ok_or_else(|| {
                PyValueError::new_err("block_tokens=0: a block holds at least one token")
            })?;
            let mut config = GateConfig::new(capacity, curve);
            configure(&mut config, max_new_tokens_default, max_tokens, pools)?;
            Self::build(py, config)
        })
    }

    /// A gate on the blocks that a plan leaves: all but the null block, which the engine never hands
    /// out.
    ///
    /// A sequence takes exactly what the engine says of its length: layers that keep a window of it
    /// grow no further once it is longer than that. `max_tokens` is the plan's `max_model_len` unless
    /// told otherwise. The rest is as in `Gate(envelope)`.
    ///
    /// Raises `PlanRefused`, and `ValueError` for a plan without an engine, which has no blocks.
    #[staticmethod]
    #[pyo3(signature = (plan, *, max_new_tokens_default=None, max_tokens=None, pools=None))]
    fn from_plan(
        py: Python<'_>,
        plan: &Bound<'_, PyAny>,
        max_new_tokens_default: Option<&Bound<'_, PyAny>>,
        max_tokens: Option<&Bound<'_, PyAny>>,
        pools: Option<&Bound<'_, PyAny>>,
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
            let mut config = GateConfig::new(blocks.saturating_sub(Blocks(1)), curve);
            configure(&mut config, max_new_tokens_default, max_tokens, pools)?;
            config.max_tokens = config.max_tokens.or(plan.inner().max_model_len);
            Self::build(py, config)
        })
    }

    /// Admits a sequence of `prompt_tokens` that will produce at most `max_new_tokens`, or returns
    /// `None`. `admit` says why.
    ///
    /// The lease holds the prompt's blocks at once and claims the rest; it is released by
    /// `release()`, at the end of its `with` block, or when it is collected.
    #[pyo3(signature = (prompt_tokens, max_new_tokens=None, pool=None))]
    fn try_admit(
        &self,
        prompt_tokens: &Bound<'_, PyAny>,
        max_new_tokens: Option<&Bound<'_, PyAny>>,
        pool: Option<&str>,
    ) -> PyResult<Option<Py<Lease>>> {
        // The object is made in here, so that a pointer comes back through `guarded` instead of a
        // lease, which would be moved three times on its way.
        guarded(|| match self.ask(prompt_tokens, max_new_tokens, pool)? {
            Ok(lease) => Py::new(prompt_tokens.py(), Lease::new(lease)).map(Some),
            Err(_) => Ok(None),
        })
    }

    /// Admits like `try_admit`, and raises `Rejected` with the reason instead of returning `None`.
    #[pyo3(signature = (prompt_tokens, max_new_tokens=None, pool=None))]
    fn admit(
        &self,
        prompt_tokens: &Bound<'_, PyAny>,
        max_new_tokens: Option<&Bound<'_, PyAny>>,
        pool: Option<&str>,
    ) -> PyResult<Lease> {
        guarded(|| match self.ask(prompt_tokens, max_new_tokens, pool)? {
            Ok(lease) => Ok(Lease::new(lease)),
            Err(rejection) => Err(rejected(prompt_tokens.py(), &rejection)),
        })
    }

    /// Sets the capacity in blocks. Epochs order concurrent writers: a stale epoch changes nothing
    /// and returns `False`. No lease is revoked.
    fn set_capacity(&self, blocks: &Bound<'_, PyAny>, epoch: &Bound<'_, PyAny>) -> PyResult<bool> {
        guarded(|| {
            let blocks = Blocks(amount("blocks", "blocks", blocks)?);
            let epoch = amount("epoch", "epochs", epoch)?;
            Ok(self.inner.set_capacity(blocks, epoch))
        })
    }

    /// Tells the gate the time, once per step or so (`time.monotonic_ns()` will do): `retry_after`
    /// is made of it.
    fn tick(&self, now_ns: &Bound<'_, PyAny>) -> PyResult<()> {
        guarded(|| {
            self.inner.tick(Nanos(amount("now_ns", "nanoseconds", now_ns)?));
            Ok(())
        })
    }

    /// What is handed out, over all pools, as a dict; `rejected` counts by reason.
    fn usage<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| {
            let usage = self.inner.usage();
            let dict = plain(py, &usage)?;
            let by_reason = PyDict::new(py);
            for (reason, count) in Reason::ALL.into_iter().zip(usage.rejected) {
                by_reason.set_item(reason.label(), count)?;
            }
            dict.set_item("rejected", by_reason)?;
            Ok(dict)
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
    fn build(py: Python<'_>, config: GateConfig) -> PyResult<Self> {
        let inner = admission::Gate::new(config).map_err(|error| raised(py, &error))?;
        Ok(Self { inner })
    }

    /// Asks the gate. What is no token count at all is passed on as one that the gate refuses, so
    /// that it is counted with its reason like every other rejection.
    #[inline]
    fn ask(
        &self,
        prompt_tokens: &Bound<'_, PyAny>,
        max_new_tokens: Option<&Bound<'_, PyAny>>,
        pool: Option<&str>,
    ) -> PyResult<Result<admission::Lease, Rejection>> {
        let prompt = tokens(prompt_tokens)?;
        let maximum = max_new_tokens.map(tokens).transpose()?;
        Ok(self.inner.try_admit(prompt, maximum, pool))
    }
}

#[inline]
fn tokens(object: &Bound<'_, PyAny>) -> PyResult<Tokens> {
    Ok(count(object)?.map_or(Tokens::MAX, Tokens))
}

fn configure(
    config: &mut GateConfig,
    max_new_tokens_default: Option<&Bound<'_, PyAny>>,
    max_tokens: Option<&Bound<'_, PyAny>>,
    pools: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    config.max_new_tokens_default =
        optional_amount("max_new_tokens_default", "tokens", max_new_tokens_default)?.map(Tokens);
    config.max_tokens = optional_amount("max_tokens", "tokens", max_tokens)?.map(Tokens);
    let Some(pools) = pools else { return Ok(()) };
    let Ok(pools) = pools.cast::<PyDict>() else {
        let found = pools.get_type().name()?;
        let text = format!("pools: expected a dict of names to shares, not {found}");
        return Err(PyTypeError::new_err(text));
    };
    for (name, share) in pools {
        let Ok(name) = name.extract::<String>() else {
            return Err(PyTypeError::new_err(format!("pools: {name} is not a name (a str)")));
        };
        let share = small_amount(&format!("pools[{name:?}]"), "shares", &share)?;
        config.pools.push(PoolConfig { name, share });
    }
    Ok(())
}

/// The right to use blocks, released exactly once.
///
/// Not frozen: its methods take it exclusively, and run no Python code meanwhile, so no second
/// thread can find it borrowed.
#[pyclass(module = "memvelope")]
pub(crate) struct Lease {
    inner: Option<admission::Lease>,
    /// Length of the sequence when the lease was released.
    tokens_at_release: Tokens,
}

impl Lease {
    const fn new(inner: admission::Lease) -> Self {
        Self { inner: Some(inner), tokens_at_release: Tokens::ZERO }
    }

    fn end(&mut self) -> bool {
        let Some(lease) = self.inner.take() else { return false };
        self.tokens_at_release = lease.tokens();
        drop(lease);
        true
    }
}

#[pymethods]
impl Lease {
    /// The sequence grew by `tokens`. Returns how many blocks are newly held.
    ///
    /// Raises `PastMaximum` past the declared maximum, `LeaseReleased` after `release()`, and
    /// `Rejected` for what is no token count; nothing has changed then.
    #[pyo3(signature = (tokens=None), text_signature = "($self, tokens=1)")]
    fn grow(slf: &Bound<'_, Self>, tokens: Option<&Bound<'_, PyAny>>) -> PyResult<u64> {
        guarded(|| {
            let Some(tokens) = tokens.map_or(Ok(Some(1)), count)? else {
                return Err(rejected(slf.py(), &BAD_GROWTH));
            };
            // Borrowed for this line only: a foreign `__index__` above and the making of an
            // exception below may let another thread in, which would find the lease taken.
            let grown = slf.try_borrow_mut()?.inner.as_mut().map(|l| l.grow(Tokens(tokens)));
            match grown {
                Some(Ok(blocks)) => Ok(blocks.0),
                Some(Err(past)) => Err(past_maximum(slf.py(), &past)),
                None => Err(LeaseReleased::new_err("growing a lease that was released")),
            }
        })
    }

    /// Gives the blocks back. Returns whether this call did it: a second call changes nothing and
    /// returns `False`, so that a lease may be released early inside its `with` block.
    fn release(&mut self) -> PyResult<bool> {
        guarded(|| Ok(self.end()))
    }

    /// Whether the blocks were given back.
    #[getter]
    const fn released(&self) -> bool {
        self.inner.is_none()
    }

    /// Blocks granted; 0 once released.
    #[getter]
    fn held_blocks(&self) -> PyResult<u64> {
        guarded(|| Ok(self.inner.as_ref().map_or(0, |lease| lease.held().0)))
    }

    /// Blocks it may come to hold; 0 once released.
    #[getter]
    fn claim_blocks(&self) -> PyResult<u64> {
        guarded(|| Ok(self.inner.as_ref().map_or(0, |lease| lease.claim().0)))
    }

    /// Tokens of the sequence so far; the final length once released.
    #[getter]
    fn tokens(&self) -> PyResult<u64> {
        guarded(|| Ok(self.inner.as_ref().map_or(self.tokens_at_release, |l| l.tokens()).0))
    }

    const fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (_kind=None, _error=None, _traceback=None))]
    fn __exit__(
        &mut self,
        _kind: Option<&Bound<'_, PyAny>>,
        _error: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        guarded(|| {
            self.end();
            Ok(false) // never hides the block's own exception
        })
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            Ok(match &self.inner {
                None => format!("<memvelope.Lease released tokens={}>", self.tokens_at_release.0),
                Some(lease) => format!(
                    "<memvelope.Lease tokens={} held_blocks={} claim_blocks={}>",
                    lease.tokens().0,
                    lease.held().0,
                    lease.claim().0
                ),
            })
        })
    }
}

/// Growing by what is no token count.
const BAD_GROWTH: Rejection =
    Rejection { reason: Reason::BadTokenCount, short_by_tokens: Tokens::ZERO, retry_after: None };
