//! A plan without any engine: the arithmetic alone, nothing rounded to blocks or pages.

use super::plan::{self, Bound, Budget, Plan, Sequences};
use super::plan_stored::Stored;
use super::{Declared, Envelope, Origin, TermName, plan_cost};
use crate::engine::{Params, generic};
use crate::error::Result;
use crate::model::{Layout, Refusal, RefusalRule};
use crate::units::{Bytes, Tokens};

impl Plan {
    /// Plans a model for no engine in particular: what it keeps a token and a sequence, and how
    /// many sequences that lets run. Nothing is rounded up, so an engine fits no more than this.
    ///
    /// Of the parameters, the device, the ranks and the longest length count; a cache is in the
    /// model's own dtype.
    ///
    /// # Errors
    /// As [`Self::vllm`].
    pub fn generic(layout: &Layout, params: &Params, budget: &Budget) -> Result<Self> {
        Self::generic_stored(layout, params, budget, None)
    }

    /// As [`Self::generic`], where the files of the checkpoint were read, too.
    ///
    /// # Errors
    /// As [`Self::vllm`].
    pub fn generic_stored(
        layout: &Layout,
        params: &Params,
        budget: &Budget,
        stored: Option<&Stored>,
    ) -> Result<Self> {
        let mut plan = Self::empty(layout, params, "generic".to_owned());
        let tp = params.tensor_parallel;
        if let Err(refusal) = generic::sequence_bytes_on(layout, tp, Tokens(1))
            .and_then(|_| plan.weigh(layout, params, stored))
        {
            plan.refused = Some(refusal);
            return Ok(plan);
        }
        plan.costs = plan_cost::of_layout(layout, tp);
        let every = plan.costs.iter().filter(|cost| cost.kept == plan_cost::Kept::EveryToken);
        let per_token = every.map(|cost| Bytes(cost.bytes)).sum::<Bytes>();
        plan.per_token_bytes = Some(per_token.0);
        let Some(longest) = params.max_model_len.or(layout.max_tokens) else {
            let reason = "the config declares no longest length; give --max-model-len";
            plan.refused = Some(Refusal::new(RefusalRule::Parameter, reason));
            return Ok(plan);
        };
        plan.max_model_len = Some(longest);
        let available = match budget {
            Budget::Kv(bytes) => Some(*bytes),
            Budget::Share { utilization, declared } => {
                let total = params.device.total;
                let withheld = total.saturating_sub(plan::share_of(total, *utilization));
                let declared = Declared { withheld: Some(withheld), ..*declared };
                let solve = |weights| {
                    Envelope::plan_tokens(total, layout, per_token, tp, weights, &declared)
                };
                let capacity = plan.solve(params, stored, solve)?;
                if let Some(envelope) = &mut plan.equation {
                    let note = format!("not to be used (share {utilization})");
                    envelope.restate(TermName::Withheld, Origin::Derived, note);
                }
                capacity
            }
        };
        if let Some(available) = available {
            plan.fill_generic(layout, tp, available, longest);
        }
        Ok(plan)
    }

    fn fill_generic(&mut self, layout: &Layout, tp: u32, available: i64, longest: Tokens) {
        let usable = u64::try_from(available).unwrap_or(0);
        let at = |tokens: Tokens| {
            let bytes = generic::sequence_bytes_on(layout, tp, tokens).unwrap_or(Bytes(u64::MAX));
            let count = usable.checked_div(bytes.0).unwrap_or(u64::MAX);
            Sequences { tokens, blocks: None, bytes, count, bound_by: Bound::KvCache }
        };
        self.available_kv_bytes = Some(available);
        self.sequences = plan::lengths(longest).into_iter().map(at).collect();
        let need = at(longest).bytes;
        self.need_bytes_one_request = Some(need);
        if need.0 > usable {
            let reason = format!(
                "one sequence of {} tokens keeps {need}, and {} are there for the KV cache",
                longest.0,
                Bytes(usable)
            );
            self.refused = Some(Refusal::new(RefusalRule::Memory, reason));
        }
    }
}
