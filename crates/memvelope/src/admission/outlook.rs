//! The estimate of a gate: histories by class, a forecast for each pool, and how far both are
//! trusted.
//!
//! It is brought up to date once per step (see [`Outlook::is_stale`]), in one pass over the leases;
//! between two passes, admissions and releases are added and taken away.

use super::account::Account;
use super::forecast::{Curve, Forecast, Share};
use super::roster::{Entry, Roster};
use super::settings::Estimate;
use super::survival::{CLASSES_MAX, Survival};
use std::collections::HashMap;

/// Steps after which the tables of survival are computed anew even if nothing ended: what runs is
/// history, too, and ages.
const REBUILD_STEPS: u32 = 64;

/// Standard deviations that a step adds to the margin in which every lease waited: a moment of it
/// hardly counts, seconds do.
const CAUTION_STEP: f32 = 0.01;
/// Most standard deviations that waits add to the margin.
const CAUTION_MAX: f32 = 2.0;
/// What an output that ended leaves of the caution: it is forgotten over some hundreds.
const CAUTION_KEPT: f32 = 1.0 - 1.0 / 256.0;

/// Leases that may come and go before the forecasts are made anew, even if nothing else happens:
/// rounding adds up to a thousandth of a block by then.
const CHANGES_MAX: usize = 4096;

/// Histories and forecasts.
#[derive(Debug)]
pub(crate) struct Outlook {
    margin: f32,
    /// Standard deviations beyond the margin, since leases had to wait.
    caution: f32,
    survival: Survival,
    classes: HashMap<Box<str>, u16>,
    forecasts: Vec<Forecast>,
    /// What was asked for last: mostly it comes in at once, and is not computed again.
    asked: Option<(Share, u16, Curve)>,
    /// A step passed since the forecasts were made.
    is_stepped: bool,
    /// Growths, and leases that came or went, since then.
    growths: u32,
    changes: u32,
    waits: u32,
    /// Outputs that ended since the last pass.
    ended: u32,
    steps_since_rebuild: u32,
}

impl Outlook {
    pub(crate) fn new(estimate: Estimate, pools: usize, blocks_per_token: f32) -> Self {
        Self {
            margin: estimate.margin as f32,
            caution: 0.0,
            survival: Survival::new(),
            classes: HashMap::new(),
            forecasts: vec![Forecast::new(blocks_per_token); pools],
            asked: None,
            is_stepped: true,
            growths: 0,
            changes: 0,
            waits: 0,
            ended: 0,
            steps_since_rebuild: u32::MAX,
        }
    }

    /// The number of a class; a new one is entered while there is room.
    pub(crate) fn class(&mut self, name: &str) -> u16 {
        if let Some(class) = self.known_class(name) {
            return class;
        }
        let number = self.classes.len() + 1;
        if number >= CLASSES_MAX {
            return 0;
        }
        self.survival.add_class();
        self.classes.insert(name.into(), number as u16);
        number as u16
    }

    pub(crate) fn known_class(&self, name: &str) -> Option<u16> {
        self.classes.get(name).copied()
    }

    /// A step of the engine begins.
    pub(crate) fn step(&mut self) {
        self.is_stepped = true;
    }

    pub(crate) fn grew(&mut self) {
        self.growths = self.growths.saturating_add(1);
    }

    pub(crate) fn waited(&mut self) {
        self.waits = self.waits.saturating_add(1);
    }

    /// Whether the forecasts are of an earlier step. An engine that tells nobody of its steps
    /// grows each lease by a block every so many tokens; half of them having done so is a change
    /// of that order.
    ///
    /// Sums that are added to and taken from drift, so that they are not kept for ever either.
    pub(crate) fn is_stale(&self, leases: usize) -> bool {
        self.is_stepped
            || self.growths as usize > leases / 2 + 4
            || self.changes as usize > 16 * leases + CHANGES_MAX
    }

    /// Makes the forecasts anew from what runs.
    pub(crate) fn refresh(&mut self, roster: &mut Roster) {
        self.steps_since_rebuild = self.steps_since_rebuild.saturating_add(1);
        if self.survival.has_news() || self.steps_since_rebuild >= REBUILD_STEPS {
            let running = roster.iter().map(|(_, entry)| (entry.class, entry.generated()));
            self.survival.rebuild(running);
            self.steps_since_rebuild = 0;
        }
        self.forecasts.iter_mut().for_each(Forecast::clear);
        for entry in roster.iter_mut() {
            entry.counted = entry.share();
            entry.counted_generated = entry.generated();
            let row = self.survival.row(entry.class, entry.counted_generated);
            let forecast = &mut self.forecasts[usize::from(entry.pool)];
            let own = forecast.curve_of(&entry.counted, row);
            forecast.add(&entry.counted, &own);
        }
        self.learn(roster.len());
        self.asked = None; // Of another table.
        (self.is_stepped, self.growths, self.changes, self.waits) = (false, 0, 0, 0);
    }

    /// Trusts history less when leases had to wait, and more again with every output that ended
    /// since.
    fn learn(&mut self, leases: usize) {
        let share = (self.waits as f32 / leases.max(1) as f32).min(1.0);
        let forgotten = CAUTION_KEPT.powi(self.ended.min(1000) as i32);
        self.caution = (self.caution * forgotten + CAUTION_STEP * share).min(CAUTION_MAX);
        self.ended = 0;
    }

    /// A lease came in.
    #[inline]
    pub(crate) fn add(&mut self, entry: &mut Entry) {
        entry.counted = entry.share();
        entry.counted_generated = entry.generated();
        let forecast = &mut self.forecasts[usize::from(entry.pool)];
        match self.asked {
            // It is the one that was asked for just now.
            Some((share, class, own)) if (share, class) == (entry.counted, entry.class) => {
                forecast.add(&entry.counted, &own);
            }
            _ => {
                let row = self.survival.row(entry.class, entry.counted_generated);
                let own = forecast.curve_of(&entry.counted, row);
                forecast.add(&entry.counted, &own);
            }
        }
        self.asked = None;
    }

    /// Blocks of a lease became common, or its own again.
    pub(crate) fn recount(&mut self, entry: &mut Entry) {
        let row = self.survival.row(entry.class, entry.counted_generated);
        let forecast = &mut self.forecasts[usize::from(entry.pool)];
        let own = forecast.curve_of(&entry.counted, row);
        forecast.remove(&entry.counted, &own);
        self.asked = None; // A newcomer's is not this one's, however alike they are.
        self.add(entry);
    }

    /// A lease went, having generated so many tokens.
    #[inline]
    pub(crate) fn remove(&mut self, entry: &Entry, generated: u64, has_ended: bool) {
        let row = self.survival.row(entry.class, entry.counted_generated);
        let forecast = &mut self.forecasts[usize::from(entry.pool)];
        let own = forecast.curve_of(&entry.counted, row);
        forecast.remove(&entry.counted, &own);
        self.survival.leave(entry.class, generated, has_ended);
        self.ended = self.ended.saturating_add(1);
        self.changes = self.changes.saturating_add(1);
    }

    /// Whether a newcomer is expected to leave nobody waiting, in an account of `capacity` blocks:
    /// because everything claimed fits, or the predicted peak does, or the worst one.
    ///
    /// The prediction leaves the smallest need free: as soon as less is, every lease but the one
    /// that has it waits.
    pub(crate) fn fits(
        &mut self,
        account: &Account,
        pool: usize,
        share: &Share,
        class: u16,
        capacity: u64,
    ) -> bool {
        let forecast = &self.forecasts[pool];
        // Whatever they do, it fits.
        if account.claimed + account.shared + u64::from(share.claim) <= capacity {
            return true;
        }
        let need = share.claim - share.held;
        let smallest = account.needs.smallest().map_or(need, |smallest| smallest.min(need));
        let limit = capacity as f32 - account.shared as f32 - smallest as f32;
        let row = self.survival.row(class, 0);
        let own = forecast.curve_of(share, row);
        self.asked = Some((*share, class, own));
        if forecast.fits(&own, limit, self.margin + self.caution) {
            return true;
        }
        forecast.worst_peak(Some(share)) + account.shared <= capacity
    }

    /// Standard deviations kept free now.
    pub(crate) fn margin(&self) -> f32 {
        self.margin + self.caution
    }

    pub(crate) fn forecast(&self, pool: usize) -> &Forecast {
        &self.forecasts[pool]
    }
}
