//! `plan` and `Plan`.

use crate::convert::{amount, optional_amount, plain, small_amount};
use crate::document::Document;
use crate::envelope::Envelope;
use crate::errors::{guarded, internal, raised, refused};
use memvelope::engine::{Device, DeviceKind, DeviceSource, KvDtype, Params, Vllm};
use memvelope::envelope::{self, Budget, Declared, Stored, UTILIZATION_DEFAULT};
use memvelope::model::Layout;
use memvelope::units::{Bytes, CostCurve, Tokens};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

/// The compute capability of a GPU of which only the size is given: a Hopper's.
const CAPABILITY_DEFAULT: (u32, u32) = (9, 0);
/// The GPU whose kernels and batch limits count where none is named.
const GPU_DEFAULT: &str = "h100";

/// What an engine will do with a model on a device, and what fits, before anything runs.
///
/// Of one tensor-parallel rank. What the engine would not have computed is `None`; where it would
/// not start, `refused` says why.
#[pyclass(frozen, module = "memvelope")]
pub(crate) struct Plan {
    inner: envelope::Plan,
    /// Blocks of a sequence, as a function of its length; absent where the engine would not start.
    curve: Option<CostCurve>,
}

impl Plan {
    pub(crate) const fn inner(&self) -> &envelope::Plan {
        &self.inner
    }

    pub(crate) const fn curve(&self) -> Option<CostCurve> {
        self.curve
    }

    fn json(&self) -> PyResult<String> {
        serde_json::to_string(&self.inner)
            .map_err(|error| internal(format!("a plan did not serialize: {error}")))
    }
}

/// Plans the memory of a model on a device, as vLLM 0.32 computes it at startup.
///
/// Nothing runs, and no GPU is needed. A plan with which the engine would not start is returned,
/// too: `Plan.refused` says why, and `Plan.raise_if_refused()` raises it.
///
/// `config` is a Hugging Face `config.json`: a path to it (or to its directory), its text, or the
/// dict in it. Of a directory with a checkpoint, the sizes of the weights are read from its files,
/// too. `quant_config` is the `hf_quant_config.json` of some quantised checkpoints, given
/// likewise; it is read from beside a `config.json` that is given by path.
///
/// `gpu` is a name ("h100", "a100-40", "h100-3g.40gb"), the total memory of a CUDA GPU (bytes as an
/// int, or "80GiB"), or "cpu"; `capability` is its compute capability, (9, 0) unless the name or you
/// say otherwise. `kv_bytes` is the memory of the KV cache on one rank, in bytes, as
/// `--kv-cache-memory-bytes` gives it: without it, what `gpu_memory_utilization` (above 0, at most
/// 1; vLLM's default is 0.92, that of "generic" 1) leaves beside weights, activations and context.
/// One of `gpu` and `kv_bytes` is needed; without `gpu`, the kernels are those of an H100, and
/// "cpu" needs `kv_bytes`.
///
/// `tp` is the number of tensor-parallel ranks. `kv_dtype`, `block_size` (tokens),
/// `max_num_batched_tokens`, `max_model_len` (tokens), `max_num_seqs`, `prefix_caching` and
/// `async_scheduling` are vLLM's own options. `engine` is "vllm", or "generic": the arithmetic
/// alone, without any engine's rounding.
///
/// Raises `ReadFileError`, `ReadModelError`, `UnknownModelError`, and `TypeError` or `ValueError`
/// for an argument.
#[pyfunction]
#[pyo3(signature = (
    config, *, gpu=None, kv_bytes=None, tp=None, kv_dtype="auto", block_size=None,
    max_num_batched_tokens=None, max_model_len=None, max_num_seqs=None,
    gpu_memory_utilization=None, quant_config=None, engine="vllm",
    capability=None, prefix_caching=None, async_scheduling=true
))]
#[pyo3(
    text_signature = "(config, *, gpu=None, kv_bytes=None, tp=1, kv_dtype='auto', block_size=None, max_num_batched_tokens=None, max_model_len=None, max_num_seqs=None, gpu_memory_utilization=None, quant_config=None, engine='vllm', capability=None, prefix_caching=None, async_scheduling=True)"
)]
#[expect(clippy::too_many_arguments, reason = "keywords in Python, where they are named")]
pub(crate) fn plan(
    py: Python<'_>,
    config: &Bound<'_, PyAny>,
    gpu: Option<&Bound<'_, PyAny>>,
    kv_bytes: Option<&Bound<'_, PyAny>>,
    tp: Option<&Bound<'_, PyAny>>,
    kv_dtype: &str,
    block_size: Option<&Bound<'_, PyAny>>,
    max_num_batched_tokens: Option<&Bound<'_, PyAny>>,
    max_model_len: Option<&Bound<'_, PyAny>>,
    max_num_seqs: Option<&Bound<'_, PyAny>>,
    gpu_memory_utilization: Option<f64>,
    quant_config: Option<&Bound<'_, PyAny>>,
    engine: &str,
    capability: Option<&Bound<'_, PyAny>>,
    prefix_caching: Option<bool>,
    async_scheduling: bool,
) -> PyResult<Plan> {
    guarded(|| {
        let config = Document::take("config", config)?;
        let quant_config =
            quant_config.map(|object| Document::take("quant_config", object)).transpose()?;
        let engine = Engine::named(engine)?;
        let budget = budget(kv_bytes, gpu_memory_utilization, engine)?;
        let mut params = Params::new(device(gpu, kv_bytes.is_some(), capability)?);
        params.tensor_parallel = at_least_one("tp", "ranks", tp)?.unwrap_or(1);
        params.kv_dtype = kv_dtype
            .parse::<KvDtype>()
            .map_err(|refusal| PyValueError::new_err(format!("kv_dtype: {}", refusal.reason)))?;
        params.block_size = at_least_one("block_size", "tokens", block_size)?;
        params.max_num_batched_tokens =
            at_least_one("max_num_batched_tokens", "tokens", max_num_batched_tokens)?;
        params.max_num_seqs = at_least_one("max_num_seqs", "sequences", max_num_seqs)?;
        params.max_model_len =
            optional_amount("max_model_len", "tokens", max_model_len)?.map(Tokens);
        if params.max_model_len == Some(Tokens::ZERO) {
            return Err(PyValueError::new_err("max_model_len=0: expected at least 1"));
        }
        params.prefix_caching = prefix_caching;
        params.async_scheduling = async_scheduling;
        // Files may lie on a slow network mount, and a document of megabytes takes its time: other
        // threads run meanwhile.
        let mut plan = py
            .detach(|| engine.plan(&config, quant_config.as_ref(), &params, &budget))
            .map_err(|error| raised(py, &error))?;
        if gpu.is_none() {
            let warning = "no gpu: kernels and batch limits are those of an H100";
            plan.inner.warnings.insert(0, warning.to_owned());
        }
        Ok(plan)
    })
}

#[derive(Clone, Copy)]
enum Engine {
    Vllm,
    Generic,
}

impl Engine {
    fn named(name: &str) -> PyResult<Self> {
        match name {
            "vllm" => Ok(Self::Vllm),
            "generic" => Ok(Self::Generic),
            _ => Err(PyValueError::new_err(format!(
                "engine: {:?} is not known; expected \"vllm\" or \"generic\"",
                shortened(name)
            ))),
        }
    }

    fn plan(
        self,
        config: &Document,
        quant_config: Option<&Document>,
        params: &Params,
        budget: &Budget,
    ) -> memvelope::Result<Plan> {
        const CONFIG: &str = "config.json";
        const QUANT_CONFIG: &str = "hf_quant_config.json";
        let text = config.read(CONFIG)?;
        let quant_text = match quant_config {
            Some(document) => Some(document.read(QUANT_CONFIG)?),
            None => config.read_beside(CONFIG, QUANT_CONFIG)?,
        };
        let layout = Layout::from_configs(&text, quant_text.as_deref())?;
        let (stored, warning) = match config.folder() {
            Some(folder) => Stored::open(folder, &layout),
            None => (None, None),
        };
        let stored = stored.as_ref();
        let mut plan = match self {
            Self::Vllm => Plan {
                inner: envelope::Plan::vllm_stored(&layout, params, budget, stored)?,
                curve: Vllm::new(&layout, params).ok().map(|engine| engine.cost_curve()),
            },
            Self::Generic => Plan {
                inner: envelope::Plan::generic_stored(&layout, params, budget, stored)?,
                curve: None,
            },
        };
        plan.inner.warnings.splice(..0, warning);
        Ok(plan)
    }
}

fn budget(
    kv_bytes: Option<&Bound<'_, PyAny>>,
    utilization: Option<f64>,
    engine: Engine,
) -> PyResult<Budget> {
    let utilization = utilization.unwrap_or(match engine {
        Engine::Vllm => UTILIZATION_DEFAULT,
        Engine::Generic => 1.0,
    });
    if !(utilization > 0.0 && utilization <= 1.0) {
        return Err(PyValueError::new_err(format!(
            "gpu_memory_utilization={utilization}: expected a share above 0 and at most 1"
        )));
    }
    let Some(object) = kv_bytes else {
        return Ok(Budget::Share { utilization, declared: Declared::default() });
    };
    let bytes = amount("kv_bytes", "bytes", object)?;
    Ok(Budget::Kv(i64::try_from(bytes).unwrap_or(i64::MAX)))
}

fn device(
    gpu: Option<&Bound<'_, PyAny>>,
    is_kv_given: bool,
    capability: Option<&Bound<'_, PyAny>>,
) -> PyResult<Device> {
    let capability = capability.map(self::capability).transpose()?;
    let mut device = match gpu {
        Some(gpu) => match gpu.cast::<PyString>() {
            Ok(name) => named(name.to_str()?)?,
            Err(_) => Device::declared(device_bytes(gpu)?, CAPABILITY_DEFAULT),
        },
        None if is_kv_given => named(GPU_DEFAULT)?,
        None => {
            let text = "give gpu (a name, or its bytes), kv_bytes, or both";
            return Err(PyTypeError::new_err(text));
        }
    };
    match (device.kind, capability) {
        (DeviceKind::Cuda(..), Some(pair)) if device.source == DeviceSource::Declared => {
            device = Device::declared(device.total, pair);
        }
        (DeviceKind::Cuda(..), Some((major, minor))) => {
            device.kind = DeviceKind::Cuda(major, minor);
        }
        (DeviceKind::Cpu, Some(_)) => {
            return Err(PyValueError::new_err("capability: a CPU has none"));
        }
        (DeviceKind::Cpu, None) if !is_kv_given => {
            let text = "gpu=\"cpu\": how much memory it has is not known; give kv_bytes";
            return Err(PyValueError::new_err(text));
        }
        (_, None) => {}
    }
    Ok(device)
}

fn named(name: &str) -> PyResult<Device> {
    // A number alone might be meant as the ordinal of a device, which nobody asks here.
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    let device = Device::named(name).or_else(|| match name.parse::<Bytes>() {
        Ok(total) if !is_number => Some(Device::declared(total, CAPABILITY_DEFAULT)),
        _ => None,
    });
    device.ok_or_else(|| {
        let names: Vec<String> = Device::names().collect();
        PyValueError::new_err(format!(
            "gpu: {:?} is not known; expected its bytes (an int, or \"80GiB\"), or one of {}",
            shortened(name),
            names.join(", ")
        ))
    })
}

fn device_bytes(gpu: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    if gpu.hasattr("__index__")? {
        return Ok(Bytes(amount("gpu", "bytes", gpu)?));
    }
    let found = gpu.get_type().name()?;
    let text = format!("gpu: expected a name (a str) or bytes (an int), not {found}");
    Err(PyTypeError::new_err(text))
}

fn capability(object: &Bound<'_, PyAny>) -> PyResult<(u32, u32)> {
    let wrong = || {
        let text = "capability: expected a tuple of two ints, major and minor, such as (9, 0)";
        PyTypeError::new_err(text)
    };
    let pair = object.cast::<PyTuple>().map_err(|_| wrong())?;
    if pair.len() != 2 {
        return Err(wrong());
    }
    let number = |index| small_amount("capability", "version", &pair.get_item(index)?);
    Ok((number(0)?, number(1)?))
}

/// An amount of 32 bits that may be absent, but not zero.
fn at_least_one(
    name: &str,
    unit: &str,
    object: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<u32>> {
    let value = object.map(|object| small_amount(name, unit, object)).transpose()?;
    match value {
        Some(0) => Err(PyValueError::new_err(format!("{name}=0: expected at least 1"))),
        value => Ok(value),
    }
}

/// What an error repeats of what it was given.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

#[pymethods]
impl Plan {
    /// The engine, with its version.
    #[getter]
    fn engine(&self) -> &str {
        &self.inner.engine
    }

    /// Architecture of the model.
    #[getter]
    fn architecture(&self) -> &str {
        &self.inner.architecture
    }

    /// The dtype that the model is served in.
    #[getter]
    fn model_dtype<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &self.inner.model_dtype))
    }

    /// The device of one rank.
    #[getter]
    fn device(&self) -> &str {
        &self.inner.device
    }

    /// How the device's total is known: `table` or `declared`.
    #[getter]
    fn device_source<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &self.inner.device_source))
    }

    /// Ranks that share the model.
    #[getter]
    const fn tensor_parallel_size(&self) -> u32 {
        self.inner.tensor_parallel_size
    }

    /// Tokens a block.
    #[getter]
    const fn block_size(&self) -> Option<u64> {
        self.inner.block_size
    }

    /// Bytes of one block of the shared pool, over all layers.
    #[getter]
    fn bytes_per_block(&self) -> Option<u64> {
        self.inner.bytes_per_block.map(|bytes| bytes.0)
    }

    /// Blocks of the pool, one of them the null block, which is never handed out.
    #[getter]
    fn num_gpu_blocks(&self) -> Option<u64> {
        self.inner.num_gpu_blocks.map(|blocks| blocks.0)
    }

    /// Tokens that the engine logs as the size of its KV cache: concurrency times longest length.
    #[getter]
    fn kv_cache_size_tokens(&self) -> Option<u64> {
        self.inner.kv_cache_size_tokens.map(|tokens| tokens.0)
    }

    /// Sequences of the longest length that fit at once.
    #[getter]
    const fn max_concurrency(&self) -> Option<f64> {
        self.inner.max_concurrency
    }

    /// Bytes that one sequence of the longest length needs.
    #[getter]
    fn need_bytes_one_request(&self) -> Option<u64> {
        self.inner.need_bytes_one_request.map(|bytes| bytes.0)
    }

    /// The longest length, in tokens.
    #[getter]
    fn max_model_len(&self) -> Option<u64> {
        self.inner.max_model_len.map(|tokens| tokens.0)
    }

    /// The longest length that would fit, in tokens, where the one asked for does not.
    #[getter]
    fn estimated_max_model_len(&self) -> Option<u64> {
        self.inner.estimated_max_model_len.map(|tokens| tokens.0)
    }

    /// Bytes for the KV cache.
    #[getter]
    const fn available_kv_bytes(&self) -> Option<i64> {
        self.inner.available_kv_bytes
    }

    /// Layers that share a block table, one dict a group.
    #[getter]
    fn groups<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &self.inner.groups))
    }

    /// Parameters on one rank, computed from the config; `None` where it does not say.
    #[getter]
    fn weights<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &self.inner.weights))
    }

    /// Bytes of weights on one rank that the equation counts.
    #[getter]
    fn weight_bytes(&self) -> Option<u64> {
        self.inner.weight_bytes.map(|bytes| bytes.0)
    }

    /// Bytes one more token takes in the layers that keep every token.
    #[getter]
    const fn per_token_bytes(&self) -> Option<u64> {
        self.inner.per_token_bytes
    }

    /// What layers alike keep, with the factors, one dict a kind.
    #[getter]
    fn costs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &self.inner.costs))
    }

    /// What the engine decided, as a dict.
    #[getter]
    fn resolved<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &self.inner.resolved))
    }

    /// How many sequences fit at some lengths, one dict a length.
    #[getter]
    fn sequences<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &self.inner.sequences))
    }

    /// As many sequences as the engine runs at once, each as long as can be, as a dict.
    #[getter]
    fn worst_case<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &self.inner.worst_case))
    }

    /// The capacity equation; `None` where `kv_bytes` was given.
    #[getter]
    fn equation(&self) -> PyResult<Option<Envelope>> {
        guarded(|| Ok(self.inner.equation.clone().map(Envelope::from)))
    }

    /// What somebody should know who relies on these numbers.
    #[getter]
    fn warnings(&self) -> Vec<String> {
        self.inner.warnings.clone()
    }

    /// Why the engine would not start: `rule` and `reason`; `None` where it would.
    #[getter]
    fn refused<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| plain(py, &self.inner.refused))
    }

    /// Raises `PlanRefused` where the engine would not start.
    fn raise_if_refused(&self, py: Python<'_>) -> PyResult<()> {
        guarded(|| self.inner.refused.as_ref().map_or(Ok(()), |why| Err(refused(py, why))))
    }

    /// The whole plan as text for people: the equation, what a token takes, what fits, and why.
    fn explain(&self) -> PyResult<String> {
        guarded(|| Ok(self.inner.to_string()))
    }

    /// Everything above as one JSON object, under the same names.
    fn to_json(&self) -> PyResult<String> {
        guarded(|| self.json())
    }

    fn __str__(&self) -> PyResult<String> {
        self.explain()
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            let or_none = |number: Option<u64>| {
                number.map_or_else(|| "None".to_owned(), |number| number.to_string())
            };
            let mut text = format!(
                "<memvelope.Plan {} num_gpu_blocks={} bytes_per_block={} max_model_len={}",
                self.inner.architecture,
                or_none(self.num_gpu_blocks()),
                or_none(self.bytes_per_block()),
                or_none(self.max_model_len())
            );
            if let Some(refusal) = &self.inner.refused {
                text.push_str(&format!(" refused={}", crate::envelope::word(&refusal.rule)?));
            }
            text.push('>');
            Ok(text)
        })
    }

    fn __eq__(&self, other: &Self) -> PyResult<bool> {
        guarded(|| Ok(self.json()? == other.json()?))
    }
}
