//! Chrome trace JSON (opens in Perfetto), streamed event by event.
