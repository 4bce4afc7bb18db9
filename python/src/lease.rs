//! `Lease`, one by one and many at once.

use crate::convert::{count, plain};
use crate::errors::{LeaseReleased, guarded, past_maximum, rejected};
use memvelope::admission::{self, Growth, PastMaximum, Reason, Rejection};
use memvelope::units::Tokens;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

/// The right to use blocks, released exactly once.
///
/// Not frozen: its methods take it exclusively, and run no Python code meanwhile, so no second
/// thread can find it borrowed. Giving blocks back may wake whoever waits for some, which is
/// Python code: so the lease is taken out first.
#[pyclass(module = "memvelope")]
pub(crate) struct Lease {
    inner: Option<admission::Lease>,
    /// Length of the sequence when the lease was released.
    tokens_at_release: Tokens,
}

impl Lease {
    #[inline]
    pub(crate) const fn new(inner: admission::Lease) -> Self {
        Self { inner: Some(inner), tokens_at_release: Tokens::ZERO }
    }

    /// What is to be released, by the caller when the lease is not borrowed any more.
    fn end(slf: &Bound<'_, Self>) -> PyResult<Option<admission::Lease>> {
        let mut lease = slf.try_borrow_mut()?;
        let inner = lease.inner.take();
        if let Some(inner) = &inner {
            lease.tokens_at_release = inner.tokens();
        }
        Ok(inner)
    }

    #[inline]
    fn grow_inner(&mut self, tokens: Tokens) -> Option<Result<Growth, PastMaximum>> {
        self.inner.as_mut().map(|lease| lease.grow(tokens))
    }
}

/// Growing by what is no token count.
const BAD_GROWTH: Rejection =
    Rejection { reason: Reason::BadTokenCount, short_by_tokens: Tokens::ZERO, retry_after: None };

/// A count of tokens, 1 unless told.
fn growth(py: Python<'_>, tokens: Option<&Bound<'_, PyAny>>) -> PyResult<Tokens> {
    let tokens = tokens.map_or(Ok(Some(1)), count)?;
    tokens.map(Tokens).ok_or_else(|| rejected(py, &BAD_GROWTH))
}

#[pymethods]
impl Lease {
    /// The sequence grew by `tokens`. Returns how many blocks are newly held, often 0, or `None`
    /// where it must wait: `if lease.grow() is None`, the sequence pauses for this step, keeps what
    /// it holds, and asks again. Under policy "guaranteed" that only happens after the budget
    /// shrank.
    ///
    /// Raises `PastMaximum` past the declared maximum, `LeaseReleased` after `release()` or where
    /// the gate took the lease back, and `Rejected` for what is no token count; nothing has changed
    /// then.
    #[pyo3(signature = (tokens=None), text_signature = "($self, tokens=1)")]
    fn grow(slf: &Bound<'_, Self>, tokens: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
        guarded(|| {
            let tokens = growth(slf.py(), tokens)?;
            // Borrowed for this line only: a foreign `__index__` above and the making of an
            // exception below may let another thread in, which would find the lease taken.
            let grown = slf.try_borrow_mut()?.grow_inner(tokens);
            match grown {
                Some(Ok(Growth::Granted(blocks))) => Ok(Some(blocks.0)),
                Some(Ok(Growth::Wait)) => Ok(None),
                Some(Ok(Growth::Expired)) => Err(LeaseReleased::new_err(
                    "growing a lease that was taken back: it was silent for longer than \
                     silent_max_ns",
                )),
                Some(Err(past)) => Err(past_maximum(slf.py(), &past)),
                None => Err(LeaseReleased::new_err("growing a lease that was released")),
            }
        })
    }

    /// Prefill put `tokens` more of the prompt into the cache: `usage()["reserved_blocks"]` counts
    /// what it has not reached. Never waits; more than the prompt has is taken for the rest of it.
    ///
    /// Raises `LeaseReleased`, and `Rejected` for what is no token count.
    fn prefill(slf: &Bound<'_, Self>, tokens: &Bound<'_, PyAny>) -> PyResult<()> {
        guarded(|| {
            let tokens = growth(slf.py(), Some(tokens))?;
            let filled = slf.try_borrow_mut()?.inner.as_mut().map(|lease| lease.prefill(tokens));
            filled.ok_or_else(|| LeaseReleased::new_err("filling a lease that was released"))
        })
    }

    /// Gives the blocks back. Returns whether this call did it: a second call changes nothing and
    /// returns `False`, so that a lease may be released early inside its `with` block.
    fn release(slf: &Bound<'_, Self>) -> PyResult<bool> {
        guarded(|| {
            let ended = Self::end(slf)?;
            Ok(ended.is_some())
        })
    }

    /// Gives the blocks back because the engine takes them for others: counted as such, and no
    /// evidence of how long outputs become. Returns how many tokens are to be computed again if the
    /// sequence resumes.
    ///
    /// Raises `LeaseReleased`.
    fn preempt(slf: &Bound<'_, Self>) -> PyResult<u64> {
        guarded(|| match Self::end(slf)? {
            Some(lease) => Ok(lease.preempt().0),
            None => Err(LeaseReleased::new_err("preempting a lease that was released")),
        })
    }

    /// What a growth by `tokens` would be answered now, and from which numbers; nothing changes.
    ///
    /// Raises `LeaseReleased`, and `Rejected` for what is no token count.
    #[pyo3(signature = (tokens=None), text_signature = "($self, tokens=1)")]
    fn explain<'py>(
        slf: &Bound<'py, Self>,
        tokens: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| {
            let tokens = growth(slf.py(), tokens)?;
            let why = slf.try_borrow()?.inner.as_ref().map(|lease| lease.explain(tokens));
            match why {
                Some(why) => plain(slf.py(), &why),
                None => Err(LeaseReleased::new_err("explaining a lease that was released")),
            }
        })
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

    /// Blocks it may still draw: claim - held; 0 once released.
    #[getter]
    fn need_blocks(&self) -> PyResult<u64> {
        guarded(|| Ok(self.inner.as_ref().map_or(0, |lease| lease.need().0)))
    }

    /// Its number among all admissions of the gate, by which `Gate.victims()` names it. `None` once
    /// released, and where the gate keeps no books ("guaranteed" without borrowing pools).
    #[getter]
    fn serial(&self) -> PyResult<Option<u64>> {
        guarded(|| Ok(self.inner.as_ref().and_then(admission::Lease::serial)))
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
        slf: &Bound<'_, Self>,
        _kind: Option<&Bound<'_, PyAny>>,
        _error: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        guarded(|| {
            drop(Self::end(slf)?);
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

/// What [`grow_many`] says of one lease.
const WAIT: u8 = 0;
const GRANTED: u8 = 1;
const REFUSED: u8 = 2;

/// A sequence whose items are had without a call into Python and without an allocation.
enum Items<'a, 'py> {
    List(&'a Bound<'py, PyList>),
    Tuple(&'a Bound<'py, PyTuple>),
}

impl<'py> Items<'_, 'py> {
    fn len(&self) -> usize {
        match self {
            Self::List(list) => list.len(),
            Self::Tuple(tuple) => tuple.len(),
        }
    }

    #[inline]
    fn lease(&self, index: usize) -> PyResult<Bound<'py, Lease>> {
        let item = match self {
            Self::List(list) => list.get_item(index)?,
            Self::Tuple(tuple) => tuple.get_item(index)?,
        };
        item.cast_into_exact::<Lease>().map_err(|error| {
            let found = error.into_inner().get_type();
            PyTypeError::new_err(format!("leases[{index}]: expected a Lease, not {found}"))
        })
    }
}

/// Grows every lease by `tokens`, after `begin`: one byte of answer each.
pub(crate) fn grow_many<'py>(
    leases: &Bound<'py, PyAny>,
    tokens: Option<&Bound<'py, PyAny>>,
    begin: impl FnOnce(),
) -> PyResult<Bound<'py, PyBytes>> {
    let py = leases.py();
    let tokens = growth(py, tokens)?;
    let copied;
    let items = if let Ok(list) = leases.cast::<PyList>() {
        Items::List(list)
    } else if let Ok(tuple) = leases.cast::<PyTuple>() {
        Items::Tuple(tuple)
    } else {
        copied = leases.try_iter()?.collect::<PyResult<Vec<_>>>()?;
        return grow_tuple(&PyTuple::new(py, copied)?, tokens, begin);
    };
    grow_items(py, &items, tokens, begin)
}

fn grow_tuple<'py>(
    leases: &Bound<'py, PyTuple>,
    tokens: Tokens,
    begin: impl FnOnce(),
) -> PyResult<Bound<'py, PyBytes>> {
    grow_items(leases.py(), &Items::Tuple(leases), tokens, begin)
}

fn grow_items<'py>(
    py: Python<'py>,
    items: &Items<'_, 'py>,
    tokens: Tokens,
    begin: impl FnOnce(),
) -> PyResult<Bound<'py, PyBytes>> {
    // First whether they are leases at all, so that a wrong one changes nothing.
    for index in 0..items.len() {
        items.lease(index)?;
    }
    // May wake whoever waits, which is Python code that could change a list; then none runs.
    begin();
    PyBytes::new_with(py, items.len(), |answers| {
        for (index, answer) in answers.iter_mut().enumerate() {
            let grown = items.lease(index)?.try_borrow_mut()?.grow_inner(tokens);
            *answer = match grown {
                Some(Ok(Growth::Granted(_))) => GRANTED,
                Some(Ok(Growth::Wait)) => WAIT,
                Some(Ok(Growth::Expired) | Err(_)) | None => REFUSED,
            };
        }
        Ok(())
    })
}
