#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| memvelope_fuzz::hf_config_structured(data));
