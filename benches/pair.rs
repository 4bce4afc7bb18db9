//! Measuring as a pair: a subject and its floor or peer, interleaved in one run, so that a noisy
//! machine slows both alike. What is reported is the ratio of medians; seconds are decoration.
//!
//! Included by path from each bench. `--quick` (how the benches run as tests) shortens the rounds.

use std::time::Instant;

/// One measured pair.
pub struct Pair {
    /// What is measured.
    pub subject: &'static str,
    /// What it is compared with.
    pub peer: &'static str,
    /// Median nanoseconds of one subject operation.
    pub subject_ns: f64,
    /// Median nanoseconds of one peer operation.
    pub peer_ns: f64,
}

impl Pair {
    /// How many times the peer's cost the subject costs.
    pub fn ratio(&self) -> f64 {
        self.subject_ns / self.peer_ns
    }

    /// One line of the table in `benches/README.md`.
    pub fn print(&self) {
        println!(
            "| {} | {:.1} ns | {} | {:.1} ns | {:.2} |",
            self.subject,
            self.subject_ns,
            self.peer,
            self.peer_ns,
            self.ratio()
        );
    }
}

/// Whether this run is a test of the bench rather than a measurement.
pub fn is_quick() -> bool {
    std::env::args().any(|arg| arg == "--quick" || arg == "--test")
}

/// Runs both closures in alternating rounds of `operations` each and takes the medians. A closure
/// does the number of operations that it is given.
pub fn measure(
    subject: (&'static str, &mut dyn FnMut(u64)),
    peer: (&'static str, &mut dyn FnMut(u64)),
    operations: u64,
) -> Pair {
    measure_prepared(&mut || (), subject, peer, operations)
}

/// The same, with something done before each round that is not timed.
#[allow(dead_code, reason = "one file, shared by path among the benches")]
pub fn measure_prepared(
    prepare: &mut dyn FnMut(),
    subject: (&'static str, &mut dyn FnMut(u64)),
    peer: (&'static str, &mut dyn FnMut(u64)),
    operations: u64,
) -> Pair {
    let (rounds, operations) =
        if is_quick() { (3, operations / 100 + 1) } else { (31, operations) };
    let time = |run: &mut dyn FnMut(u64)| {
        let begin = Instant::now();
        run(operations);
        begin.elapsed().as_nanos() as f64 / operations as f64
    };
    let (subject_name, subject_run) = subject;
    let (peer_name, peer_run) = peer;
    time(subject_run);
    time(peer_run);
    let (mut subject_times, mut peer_times) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        prepare();
        subject_times.push(time(subject_run));
        peer_times.push(time(peer_run));
    }
    Pair {
        subject: subject_name,
        peer: peer_name,
        subject_ns: median(&mut subject_times),
        peer_ns: median(&mut peer_times),
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
