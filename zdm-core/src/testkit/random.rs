use std::time::Duration;

/// Numbers from a seed (SplitMix64): the same on every machine and in every release, so that a seed that
/// failed once fails again.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The numbers of a seed.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number.
    pub const fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when the bound is 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        let number = self.draw();
        if bound == 0 { 0 } else { number % bound }
    }

    /// A time up to `longest`, in whole microseconds.
    pub fn up_to(&mut self, longest: Duration) -> Duration {
        let bound = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        Duration::from_micros(self.below(bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_seed_are_pinned() {
        let mut random = Random::new(1_234_567);
        let seen = [random.draw(), random.draw(), random.draw()];
        assert_eq!(seen, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
