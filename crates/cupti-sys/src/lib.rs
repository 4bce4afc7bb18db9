//! The CUPTI ABI and nothing else.
