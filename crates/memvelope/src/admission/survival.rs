//! How long outputs become: for each class, which share of them is longer than so many tokens.
//!
//! Kaplan-Meier over bins of length: the hazard of a bin is (outputs that ended in it) / (outputs
//! that were at risk in it), and what is still running, was preempted, or was cut at its maximum
//! was at risk without having ended. Counting only what ended would see the short ones first and
//! take them for all there is. (E. L. Kaplan, P. Meier, "Nonparametric Estimation from Incomplete
//! Observations", JASA 53, 1958.)
//!
//! A class with little history leans on that of all classes, and that one, with little history, on
//! "they run to their maximum".

/// Bins: four to each doubling of the length, up to 2^20 tokens; the last holds all that is longer.
pub(crate) const BINS: usize = 80;
/// Looks into the future, in tokens: three to two doublings, as fine as the survival changes.
pub(crate) const POINTS: usize = 28;
pub(crate) const AHEAD_TOKENS: [u32; POINTS] = [
    0, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192,
    12_288, 16_384, 24_576, 32_768, 49_152, 65_536, 98_304, 131_072, 262_144,
];
/// Classes that are told apart, the unlabelled one included.
pub(crate) const CLASSES_MAX: usize = 257;

/// Weight of the history of all classes in that of one, in outputs that ended in the bin.
const PRIOR_CLASS: f32 = 2.0;
/// Weight of the bin before in the history of all, likewise: a bin where few have been and none has
/// ended says little.
const PRIOR_ALL: f32 = 1.0;
/// Weight of "nobody ends here" where nothing is known, in requests at risk.
const PRIOR_STAY: f32 = 2.0;
/// What a bin further back counts of the next one: the hazard before is that of about an octave.
const NEAREST: f32 = 0.8;
/// How much wider a bin is than the one before, in the mean: four to an octave.
const WIDER: f32 = 1.189_207;
/// Where hardly anybody has been, no bin is expected to end more than this share.
const HAZARD_MAX: f32 = 0.5;
/// What a completion leaves of the weight of earlier ones: a memory of about a thousand, long
/// enough for the tail to be seen, short enough to follow the traffic.
const KEPT: f32 = 1.0 - 1.0 / 1024.0;
/// The weight of the newest grows instead of the others shrinking; past this all are scaled down.
const WEIGHT_MAX: f32 = 1e6;
/// A share of survivors that is as good as none; keeps divisions sane.
const SURVIVORS_MIN: f32 = 1e-6;

/// The bin of a length.
#[inline]
pub(crate) const fn bin(tokens: u64) -> usize {
    if tokens < 4 {
        return tokens as usize;
    }
    let octave = tokens.ilog2() as usize;
    let bin = 4 * (octave - 1) + (tokens >> (octave - 2)) as usize % 4;
    if bin < BINS { bin } else { BINS - 1 }
}

/// The first length of a bin.
#[inline]
const fn edge(bin: usize) -> u64 {
    if bin < 4 {
        return bin as u64;
    }
    let octave = bin / 4 + 1;
    (4 + bin as u64 % 4) << (octave - 2)
}

/// Share of outputs that are still running at each point ahead.
pub(crate) type Row = [f32; POINTS];

/// Nobody ends before its maximum: what is assumed without history.
pub(crate) const ALL_STAY: Row = [1.0; POINTS];

/// Lengths of one class.
#[derive(Clone, Debug)]
struct Lengths {
    /// Outputs that ended in each bin, and all that left in it, ended or not.
    ended: [f32; BINS],
    left: [f32; BINS],
    /// Leases that are in each bin now.
    running: [f32; BINS],
    /// Weight of the next to end.
    weight: f32,
    hazard: [f32; BINS],
    /// Share that reaches each bin, and what is beyond the last.
    survivors: [f32; BINS + 1],
    rows: Box<[Row]>,
    /// Which rows are of this table.
    row_version: [u32; BINS],
    version: u32,
}

impl Default for Lengths {
    fn default() -> Self {
        Self {
            ended: [0.0; BINS],
            left: [0.0; BINS],
            running: [0.0; BINS],
            weight: 1.0,
            hazard: [0.0; BINS],
            survivors: [1.0; BINS + 1],
            rows: vec![ALL_STAY; BINS].into(),
            row_version: [0; BINS],
            version: 1,
        }
    }
}

impl Lengths {
    fn leave(&mut self, bin: usize, has_ended: bool) {
        self.left[bin] += self.weight;
        if has_ended {
            self.ended[bin] += self.weight;
            self.weight /= KEPT;
            if self.weight > WEIGHT_MAX {
                let scale = 1.0 / self.weight;
                let all = self.ended.iter_mut().chain(&mut self.left);
                all.for_each(|count| *count *= scale);
                self.weight = 1.0;
            }
        }
    }

    /// Computes the table anew. `prior` has the hazards that `prior_weight` requests speak for.
    fn rebuild(&mut self, prior: Option<&[f32; BINS]>, prior_ended: f32) {
        let (mut beyond, prior_ended) = (0.0, prior_ended * self.weight);
        let mut at_risk = [0.0; BINS];
        for bin in (0..BINS).rev() {
            let censored = self.left[bin] - self.ended[bin] + self.weight * self.running[bin];
            // Who is censored within a bin was at risk in half of it.
            at_risk[bin] = beyond + self.ended[bin] + 0.5 * censored;
            beyond += self.ended[bin] + censored;
        }
        // Of the bins before, the nearest most.
        let (mut ended_before, mut at_risk_before) = (0.0, 0.0);
        for bin in 0..BINS {
            let (ended, at_risk) = (self.ended[bin], at_risk[bin]);
            // Where hardly anybody has been, the hazard of a token goes on as it was: an
            // exponential tail, as usual for this estimator (B. W. Brown, M. Hollander, R. M.
            // Korwar, in "Reliability and Biometry", SIAM 1974).
            let expected = match prior {
                Some(prior) => prior[bin],
                None if at_risk_before > 0.0 => {
                    (WIDER * ended_before / at_risk_before).min(HAZARD_MAX)
                }
                None => 0.0,
            };
            self.hazard[bin] = if expected > 0.0 {
                (ended + prior_ended) / (at_risk + prior_ended / expected)
            } else {
                ended / (at_risk + PRIOR_STAY * self.weight)
            };
            self.survivors[bin + 1] = self.survivors[bin] * (1.0 - self.hazard[bin]);
            ended_before = NEAREST * ended_before + ended;
            at_risk_before = NEAREST * at_risk_before + at_risk;
        }
        self.version = self.version.wrapping_add(1);
    }

    /// Share of outputs longer than so many tokens.
    fn survival(&self, tokens: u64) -> f32 {
        let bin = bin(tokens);
        let (begin, end) = (edge(bin), edge(bin + 1));
        let within = (tokens - begin) as f32 / (end - begin) as f32;
        let (first, last) = (self.survivors[bin], self.survivors[bin + 1]);
        first + within.min(1.0) * (last - first)
    }

    fn row(&mut self, bin: usize) -> &Row {
        if self.row_version[bin] != self.version {
            self.row_version[bin] = self.version;
            let now = u64::midpoint(edge(bin), edge(bin + 1));
            let reached = self.survival(now).max(SURVIVORS_MIN);
            for (point, &ahead) in AHEAD_TOKENS.iter().enumerate() {
                let share = self.survival(now + u64::from(ahead)) / reached;
                self.rows[bin][point] = share.min(1.0);
            }
        }
        &self.rows[bin]
    }
}

/// Lengths of every class; the first is of all together.
#[derive(Debug)]
pub(crate) struct Survival {
    classes: Vec<Lengths>,
    /// Outputs that ended since the tables were computed, and in all.
    ended_since: u32,
    ended: u64,
}

impl Survival {
    pub(crate) fn new() -> Self {
        Self { classes: vec![Lengths::default()], ended_since: 0, ended: 0 }
    }

    /// Makes room for one more class. Of its own it knows nothing: it is as all of them are.
    pub(crate) fn add_class(&mut self) {
        let Lengths { hazard, survivors, .. } = self.classes[0];
        self.classes.push(Lengths { hazard, survivors, ..Lengths::default() });
    }

    /// An output left at a length: it ended by itself, or it was cut, preempted or handed on.
    #[inline]
    pub(crate) fn leave(&mut self, class: u16, generated: u64, has_ended: bool) {
        let bin = bin(generated);
        self.classes[0].leave(bin, has_ended);
        if class > 0 {
            self.classes[usize::from(class)].leave(bin, has_ended);
        }
        self.ended_since = self.ended_since.saturating_add(u32::from(has_ended));
        self.ended = self.ended.saturating_add(u64::from(has_ended));
    }

    /// Whether enough outputs ended since [`Self::rebuild`] to tell a difference: each of the
    /// first, later a sixteenth of them, at most sixteen.
    pub(crate) const fn has_news(&self) -> bool {
        let few = self.ended / 16;
        self.ended_since > 0 && (self.ended_since >= 16 || self.ended_since as u64 >= few)
    }

    /// Computes every class anew from what left and what runs: (class, generated) of each lease.
    pub(crate) fn rebuild(&mut self, running: impl Iterator<Item = (u16, u64)>) {
        for lengths in &mut self.classes {
            lengths.running = [0.0; BINS];
        }
        for (class, generated) in running {
            let bin = bin(generated);
            self.classes[0].running[bin] += 1.0;
            if class > 0 {
                self.classes[usize::from(class)].running[bin] += 1.0;
            }
        }
        let Some((all, others)) = self.classes.split_first_mut() else { return };
        all.rebuild(None, PRIOR_ALL);
        for lengths in others {
            lengths.rebuild(Some(&all.hazard), PRIOR_CLASS);
        }
        self.ended_since = 0;
    }

    /// For a lease of a class that has generated so much: the share that still runs at each point
    /// ahead.
    #[inline]
    pub(crate) fn row(&mut self, class: u16, generated: u64) -> &Row {
        self.classes[usize::from(class)].row(bin(generated))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_and_edges_agree() {
        for bin_number in 0..BINS - 1 {
            assert_eq!(bin(edge(bin_number)), bin_number);
            assert_eq!(bin(edge(bin_number + 1) - 1), bin_number);
        }
        assert_eq!(bin(u64::MAX), BINS - 1);
        assert!(edge(BINS) >= 1 << 20);
    }

    fn survival_of(lengths: &[(u64, bool)], running: &[u64]) -> Survival {
        let mut survival = Survival::new();
        for &(generated, has_ended) in lengths {
            survival.leave(0, generated, has_ended);
        }
        survival.rebuild(running.iter().map(|&generated| (0, generated)));
        survival
    }

    #[test]
    fn without_history_everybody_runs_to_the_maximum() {
        let mut survival = Survival::new();
        survival.rebuild([(0, 5), (0, 500)].into_iter());
        assert_eq!(*survival.row(0, 100), ALL_STAY);
    }

    #[test]
    fn what_was_cut_does_not_count_as_ended() {
        // All reach their maximum of 5000: nothing is known of shorter ends.
        let cut: Vec<_> = (0..200).map(|_| (5000, false)).collect();
        assert_eq!(*survival_of(&cut, &[]).row(0, 100), ALL_STAY);
    }

    #[test]
    fn running_ones_mend_the_bias_to_the_short() {
        // Half of all end at 100, half at 10,000; only the short half has ended yet.
        let ended: Vec<_> = (0..500).map(|_| (100, true)).collect();
        let running = vec![1000; 500];
        let naive = survival_of(&ended, &[]).classes[0].survival(200);
        let with_running = survival_of(&ended, &running).classes[0].survival(200);
        assert!(naive < 0.05, "{naive}");
        assert!((0.4..0.6).contains(&with_running), "{with_running}");
    }

    #[test]
    fn a_uniform_distribution_is_found() {
        let ended: Vec<_> = (0..4000).map(|n| (1 + n * 617 % 1000, true)).collect();
        let mut survival = survival_of(&ended, &[]);
        for (tokens, expected) in [(250, 0.75), (500, 0.5), (750, 0.25)] {
            let found = survival.classes[0].survival(tokens);
            assert!((found - expected).abs() < 0.03, "{tokens}: {found}");
        }
        // Of those that have 500, half are left after 250 more (point 8 is 256 ahead).
        let row = survival.row(0, 480)[8];
        assert!((row - 0.48).abs() < 0.08, "{row}");
    }

    #[test]
    fn a_class_leans_on_all_until_it_has_a_history_of_its_own() {
        let mut survival = Survival::new();
        survival.add_class();
        survival.add_class();
        for _ in 0..300 {
            survival.leave(1, 100, true);
        }
        survival.rebuild(std::iter::empty());
        assert!(survival.classes[2].survival(200) < 0.1, "nothing known but of the others");
        for _ in 0..300 {
            survival.leave(2, 3000, true);
        }
        survival.rebuild(std::iter::empty());
        assert!(survival.classes[2].survival(200) > 0.8);
        assert!(survival.classes[1].survival(200) < 0.1);
    }

    #[test]
    fn history_fades() {
        let mut survival = Survival::new();
        for _ in 0..10_000 {
            survival.leave(0, 100, true);
        }
        for _ in 0..5_000 {
            survival.leave(0, 2000, true);
        }
        survival.rebuild(std::iter::empty());
        assert!(survival.classes[0].survival(200) > 0.95);
        assert!(survival.classes[0].ended.iter().all(|count| count.is_finite()));
    }
}
