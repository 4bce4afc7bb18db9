//! What the capacity of a gate shall be, reading by reading: down at once, up with hysteresis.
//!
//! A pure rule: it reads no clock and sets no gate; `runtime` tells it what was measured, and does
//! what it says. A co-tenant that comes takes memory that is not there any more, so a fall is taken
//! at once; one that goes may come back, and a gate that follows every breath of it would admit what
//! it must then throw out, so a rise has to last.

use crate::units::{Blocks, Nanos};
use serde::Serialize;

/// A rise is taken once it lasted so many readings, unless told otherwise.
const RISE_READINGS: u32 = 10;
/// Or for so long, which is for those who poll seldom.
const RISE_AFTER: Nanos = Nanos(60 * 1_000_000_000);
/// A rise below one in so many blocks of the budget is not worth the wakings: 1 %.
const RISE_PART: u64 = 100;

/// How a [`Follower`] follows; each has a documented default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowSettings {
    /// Blocks by which a reading must lie above what is in force to count as a rise. Default 1 % of
    /// the budget; never below one block.
    pub rise: Option<Blocks>,
    /// A rise is taken after so many readings in a row that show it. Default 10.
    pub rise_readings: u32,
    /// Or, with two readings at least, after so long. Default one minute.
    pub rise_after: Nanos,
    /// Blocks below which the capacity never falls, whatever is measured. Default 0.
    pub floor: Blocks,
}

impl Default for FollowSettings {
    fn default() -> Self {
        Self {
            rise: None,
            rise_readings: RISE_READINGS,
            rise_after: RISE_AFTER,
            floor: Blocks::ZERO,
        }
    }
}

/// What was measured at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// When, on any clock that does not step.
    pub time: Nanos,
    /// Blocks that the measured envelope leaves; `None` where it could not be measured.
    pub blocks: Option<Blocks>,
    /// Whether its numbers belong to different moments ([`crate::snapshot::Balance::is_torn`]).
    pub is_torn: bool,
}

/// What comes of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The capacity to set; `None`: what is in force stays.
    pub set: Option<Blocks>,
    /// Why.
    pub why: Why,
}

/// Why a capacity changed, or did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Less is there: taken at once.
    Fell,
    /// More was there for long enough: the lowest of those readings is taken.
    Rose,
    /// More is there, for so many readings by now; it has to last.
    Rising(u32),
    /// What is in force is right, or not worth changing.
    Steady,
    /// Nothing was measured: no reason to rise, and what was seen of a rise is forgotten.
    Absent,
    /// The reading is torn and shows no less: it is evidence of nothing.
    Torn,
    /// A broken invariant ended the measuring: the capacity is what was good last, and stays.
    Broken,
}

/// Turns readings into capacities. Between `floor` and the budget that it was made with, and never
/// above a measured number that was not there for the whole of a rise.
#[derive(Clone, Debug)]
pub struct Follower {
    budget: Blocks,
    settings: FollowSettings,
    in_force: Blocks,
    last_good: Option<Blocks>,
    rise: Option<Rise>,
    is_broken: bool,
}

/// Readings in a row that show more than is in force.
#[derive(Clone, Copy, Debug)]
struct Rise {
    since: Nanos,
    readings: u32,
    lowest: Blocks,
}

impl Follower {
    /// Begins at the declared budget, which is also the most it ever says.
    #[must_use]
    pub const fn new(budget: Blocks, settings: FollowSettings) -> Self {
        Self { budget, settings, in_force: budget, last_good: None, rise: None, is_broken: false }
    }

    /// The same, but beginning at less, of which a rise has to last.
    #[must_use]
    pub fn starting_at(mut self, in_force: Blocks) -> Self {
        self.in_force = in_force.min(self.budget);
        self
    }

    /// The declared budget.
    #[must_use]
    pub const fn budget(&self) -> Blocks {
        self.budget
    }

    /// The capacity in force.
    #[must_use]
    pub const fn in_force(&self) -> Blocks {
        self.in_force
    }

    /// The last reading that was neither absent nor torn.
    #[must_use]
    pub const fn last_good(&self) -> Option<Blocks> {
        self.last_good
    }

    /// Takes a reading.
    pub fn next(&mut self, reading: &Reading) -> Step {
        if self.is_broken {
            return stay(Why::Broken);
        }
        let Some(blocks) = reading.blocks else {
            self.rise = None;
            return stay(Why::Absent);
        };
        if !reading.is_torn {
            self.last_good = Some(blocks);
        }
        let target = self.within(blocks);
        if target < self.in_force {
            return self.set(target, Why::Fell);
        }
        // Against the reading as it is, not as the budget bounds it: else the last hundredth below
        // the budget would never come back.
        let is_rise =
            target > self.in_force && blocks >= self.in_force.saturating_add(self.rise_min());
        if !is_rise {
            self.rise = None;
            return stay(if reading.is_torn { Why::Torn } else { Why::Steady });
        }
        if reading.is_torn {
            if let Some(rise) = &mut self.rise {
                rise.lowest = rise.lowest.min(blocks);
            }
            return stay(Why::Torn);
        }
        self.rise(reading.time, blocks)
    }

    /// A broken invariant ended the measuring: the capacity becomes the smallest of what is in
    /// force, what was good last, and the budget, and stays there.
    pub fn fall_back(&mut self) -> Step {
        if self.is_broken {
            return stay(Why::Broken);
        }
        self.is_broken = true;
        let good = self.last_good.map_or(self.budget, |good| self.within(good));
        let fallen = self.in_force.min(good);
        // Said although it may be in force already: whoever set the gate otherwise is overruled.
        self.set(fallen, Why::Broken)
    }

    fn rise(&mut self, time: Nanos, blocks: Blocks) -> Step {
        let rise = self.rise.get_or_insert(Rise { since: time, readings: 0, lowest: blocks });
        rise.readings = rise.readings.saturating_add(1);
        rise.lowest = rise.lowest.min(blocks);
        let Rise { since, readings, lowest } = *rise;
        let is_long = readings >= 2 && time.saturating_sub(since) >= self.settings.rise_after;
        if readings >= self.settings.rise_readings || is_long {
            return self.set(self.within(lowest), Why::Rose);
        }
        stay(Why::Rising(readings))
    }

    fn set(&mut self, blocks: Blocks, why: Why) -> Step {
        self.rise = None;
        self.in_force = blocks;
        Step { set: Some(blocks), why }
    }

    fn within(&self, blocks: Blocks) -> Blocks {
        blocks.max(self.settings.floor).min(self.budget)
    }

    fn rise_min(&self) -> Blocks {
        self.settings.rise.unwrap_or(Blocks(self.budget.0 / RISE_PART)).max(Blocks(1))
    }
}

const fn stay(why: Why) -> Step {
    Step { set: None, why }
}

#[cfg(test)]
mod tests;
