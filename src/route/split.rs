//! A choice between weighted backends.

/// Chooses an index with the share of its weight: prefix sums and a binary search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightedChoice {
    // Running totals; an index of weight 0 has the total of the one before it and is never found.
    totals: Box<[u64]>,
    sum: u64,
}

impl WeightedChoice {
    /// `None` when there is nothing to choose: no weights, or only zeros. The Gateway API answers
    /// such a rule with 500.
    pub fn new(weights: &[u32]) -> Option<Self> {
        let totals: Box<[u64]> = weights
            .iter()
            .scan(0_u64, |sum, weight| {
                *sum += u64::from(*weight);
                Some(*sum)
            })
            .collect();
        let sum = totals.last().copied().filter(|sum| *sum > 0)?;
        Some(Self { totals, sum })
    }

    /// The chosen index. `random` is uniform over all of `u64`: it is scaled, not reduced modulo,
    /// so that low bits need no quality and no index is favoured.
    pub fn pick(&self, random: u64) -> usize {
        let ticket = (u128::from(random) * u128::from(self.sum)) >> 64;
        self.totals.partition_point(|total| u128::from(*total) <= ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_to_choose_is_none() {
        assert_eq!(WeightedChoice::new(&[]), None);
        assert_eq!(WeightedChoice::new(&[0, 0]), None);
    }

    #[test]
    fn a_zero_weight_receives_nothing_wherever_it_stands() {
        let choice = WeightedChoice::new(&[0, 1, 0, 3, 0]).unwrap();
        let picks: Vec<usize> = (0..64).map(|i| choice.pick(i << 58)).collect();
        assert!(picks.iter().all(|pick| [1, 3].contains(pick)), "{picks:?}");
        assert_eq!((choice.pick(0), choice.pick(u64::MAX)), (1, 3));
    }

    #[test]
    fn shares_follow_the_weights_exactly_over_an_even_spread() {
        let choice = WeightedChoice::new(&[70, 30]).unwrap();
        let first = (0..1000_u64).filter(|i| choice.pick(i * (u64::MAX / 1000)) == 0).count();
        assert!((699..=701).contains(&first), "{first}");
    }

    #[test]
    fn the_largest_weights_do_not_overflow() {
        let choice = WeightedChoice::new(&[u32::MAX; 128]).unwrap();
        assert_eq!((choice.pick(0), choice.pick(u64::MAX)), (0, 127));
    }

    proptest::proptest! {
        #[test]
        fn a_pick_is_always_an_index_with_weight(weights in proptest::collection::vec(0_u32..4, 1..6), random: u64) {
            if let Some(choice) = WeightedChoice::new(&weights) {
                proptest::prop_assert!(weights[choice.pick(random)] > 0);
            } else {
                proptest::prop_assert!(weights.iter().all(|weight| *weight == 0));
            }
        }
    }
}
