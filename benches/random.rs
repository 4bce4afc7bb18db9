//! A seeded generator, so that a failing run can be repeated: splitmix64 (G. L. Steele, D. Lea,
//! C. H. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014). Tests and benches
//! share the file by path: it must draw within nanoseconds and allocate nothing.

pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % end
    }
}
