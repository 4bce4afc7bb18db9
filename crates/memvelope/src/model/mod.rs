//! What a model costs: from a Hugging Face `config.json` to caches, layer by layer, and weights.
//!
//! * `hf_config` reads the JSON and trusts nothing in it.
//! * `families` holds the rules, one file for each kind of architecture; a rule writes into a
//!   `builder`.
//! * [`cache`] says what a layer keeps, before any engine rounds it.
//! * `weights` counts parameters, split over ranks and quantised.
//! * [`Layout`] is the result.
//! * [`safetensors`] reads what a local checkpoint really holds, to compare.
//!
//! What an engine makes of it is in [`crate::engine`]. What this version cannot compute exactly it
//! refuses.

mod builder;
pub mod cache;
mod config_class;
mod dtype;
mod families;
mod hf_config;
mod json;
mod layout;
mod length;
mod partial;
mod refusal;
pub mod safetensors;
#[cfg(test)]
mod tests;
mod weights;

pub use dtype::Dtype;
pub use layout::Layout;
pub use partial::Partial;
pub use refusal::{Refusal, RefusalRule};
pub use weights::Weights;

/// Names of all architectures that this version knows, as `architectures` of a config has them.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    families::architectures()
}
