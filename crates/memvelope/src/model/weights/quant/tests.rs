//! Forms and exclusions, against vLLM's rules.
