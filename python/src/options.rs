//! The keywords of a gate, the same for each way to make one.

use crate::convert::{amount, optional_amount, small_amount};
use memvelope::admission::{Estimate, GateConfig, Policy, PoolConfig};
use memvelope::units::{Blocks, CostCurve, Nanos, Tokens};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// What `policy` may be.
const POLICIES: &[&str] = &["guaranteed", "banker", "optimistic"];

/// Keywords beside the budget and the policy.
const KEYWORDS: &[&str] = &[
    "max_model_len",
    "max_new_tokens_default",
    "pools",
    "estimate",
    "margin",
    "watermark",
    "queue_max",
    "leases_max",
    "silent_max_ns",
    "books",
];

/// The configuration of a gate. `max_model_len` is what counts where no keyword says otherwise.
pub(crate) fn config(
    capacity: Blocks,
    curve: CostCurve,
    max_model_len: Option<Tokens>,
    policy: Option<&str>,
    keywords: Option<&Bound<'_, PyDict>>,
) -> PyResult<GateConfig> {
    let mut config = GateConfig::new(capacity, curve, Tokens(1));
    config.max_model_len = max_model_len;
    let Some(keywords) = keywords else {
        config.policy = parse_policy(policy, None)?;
        return Ok(config);
    };
    for name in keywords.keys() {
        let name = name.extract::<String>()?;
        if !KEYWORDS.contains(&&*name) {
            let known = KEYWORDS.join(", ");
            let text = format!("a gate has no keyword {name:?}; it has {known}");
            return Err(PyTypeError::new_err(text));
        }
    }
    // `None` is as good as nothing, everywhere.
    let get = |name: &str| -> PyResult<Option<Bound<'_, PyAny>>> {
        Ok(keywords.get_item(name)?.filter(|value| !value.is_none()))
    };
    let tokens = |name: &str| -> PyResult<Option<Tokens>> {
        Ok(optional_amount(name, "tokens", get(name)?.as_ref())?.map(Tokens))
    };
    config.policy = parse_policy(policy, get("watermark")?.as_ref())?;
    config.max_model_len = tokens("max_model_len")?.or(max_model_len);
    config.max_new_tokens_default = tokens("max_new_tokens_default")?;
    config.estimate =
        parse_estimate(config.policy, get("estimate")?.as_ref(), get("margin")?.as_ref())?;
    if let Some(most) = get("queue_max")? {
        config.queue_max = small_amount("queue_max", "requests", &most)?;
    }
    if let Some(most) = get("leases_max")? {
        config.leases_max = small_amount("leases_max", "leases", &most)?;
    }
    if let Some(books) = get("books")? {
        config.keeps_books = books.extract()?;
    }
    config.silent_max =
        optional_amount("silent_max_ns", "ns", get("silent_max_ns")?.as_ref())?.map(Nanos);
    if let Some(pools) = get("pools")? {
        config.pools = parse_pools(&pools)?;
    }
    Ok(config)
}

fn parse_policy(name: Option<&str>, watermark: Option<&Bound<'_, PyAny>>) -> PyResult<Policy> {
    let name = name.unwrap_or(Policy::default().label());
    let share = watermark.map_or(Ok(0.0), |share| number("watermark", share))?;
    match name {
        "guaranteed" | "banker" if share != 0.0 => Err(PyValueError::new_err(format!(
            "watermark={share}: policy {name:?} keeps none; only \"optimistic\" does"
        ))),
        "guaranteed" => Ok(Policy::Guaranteed),
        "banker" => Ok(Policy::Banker),
        "optimistic" => Ok(Policy::Optimistic { watermark: share }),
        _ => {
            let known = POLICIES.join(", ");
            Err(PyValueError::new_err(format!("policy={name:?} is not one of {known}")))
        }
    }
}

fn parse_estimate(
    policy: Policy,
    is_wanted: Option<&Bound<'_, PyAny>>,
    margin: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<Estimate>> {
    let is_wanted = match is_wanted {
        None => true,
        Some(flag) => flag.extract::<bool>().map_err(|_| {
            PyTypeError::new_err(format!("estimate={flag}: expected True or False"))
        })?,
    };
    let is_used = is_wanted && policy == Policy::Banker;
    match margin {
        Some(_) if !is_used => Err(PyValueError::new_err(
            "margin: only policy \"banker\" with estimate=True keeps one",
        )),
        Some(margin) => Ok(Some(Estimate { margin: number("margin", margin)? })),
        None => Ok(is_used.then(Estimate::default)),
    }
}

fn number(name: &str, object: &Bound<'_, PyAny>) -> PyResult<f64> {
    object
        .extract()
        .map_err(|_| PyTypeError::new_err(format!("{name}={object}: expected a number")))
}

fn parse_pools(pools: &Bound<'_, PyAny>) -> PyResult<Vec<PoolConfig>> {
    let Ok(pools) = pools.cast::<PyDict>() else {
        let found = pools.get_type().name()?;
        let text = format!("pools: expected a dict of names to shares, not {found}");
        return Err(PyTypeError::new_err(text));
    };
    let mut parsed = Vec::with_capacity(pools.len());
    for (name, value) in pools {
        let Ok(name) = name.extract::<String>() else {
            return Err(PyTypeError::new_err(format!("pools: {name} is not a name (a str)")));
        };
        parsed.push(parse_pool(name, &value)?);
    }
    Ok(parsed)
}

/// A share, or a dict of `share` and `floor_percent`.
fn parse_pool(name: String, value: &Bound<'_, PyAny>) -> PyResult<PoolConfig> {
    let place = format!("pools[{name:?}]");
    let Ok(fields) = value.cast::<PyDict>() else {
        return Ok(PoolConfig::new(name, small_amount(&place, "shares", value)?));
    };
    let (mut share, mut floor_percent) = (None, 100);
    for (key, value) in fields {
        match &*key.extract::<String>()? {
            "share" => {
                share = Some(small_amount(&format!("{place}[\"share\"]"), "shares", &value)?);
            }
            "floor_percent" => {
                let percent = amount(&format!("{place}[\"floor_percent\"]"), "percent", &value)?;
                // Above 100 the gate refuses it, in words of its own.
                floor_percent = u8::try_from(percent).unwrap_or(u8::MAX);
            }
            key => {
                let text = format!("{place}: no key {key:?}; it has share and floor_percent");
                return Err(PyValueError::new_err(text));
            }
        }
    }
    let Some(share) = share else {
        return Err(PyValueError::new_err(format!("{place}: no \"share\" is given")));
    };
    Ok(PoolConfig { floor_percent, ..PoolConfig::new(name, share) })
}
