//! What a model costs: from a Hugging Face `config.json` to bytes per token.
//!
//! * `hf_config` reads the JSON and trusts nothing in it.
//! * `family` is the table of architectures that are plain full attention.
//! * `shape` reads the numbers of one model by the rules of its family, and refuses the rest.
//! * `weights` counts parameters.
//! * `kv_layout` is the result, [`Layout`].
//!
//! The numbers are those of vLLM 0.32 on one GPU with `--kv-cache-dtype auto` and a model that is
//! not quantised. What this version cannot compute exactly it refuses.

mod family;
mod hf_config;
mod kv_layout;
mod shape;
#[cfg(test)]
mod tests;
mod weights;

pub use kv_layout::Layout;
