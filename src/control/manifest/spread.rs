//! Spreads work over the cores, as long as there is enough for each.

use std::{
    panic::resume_unwind,
    thread::{available_parallelism, scope},
};

/// Does the same with all items, in any order; the results are in theirs. Each core has `least` items
/// to do, or is left alone.
pub(super) fn spread<T: Sync, R: Send>(items: &[T], least: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cores = available_parallelism().map_or(1, usize::from).min(items.len() / least.max(1));
    if cores < 2 {
        return items.iter().map(work).collect();
    }
    let (work, size) = (&work, items.len().div_ceil(cores));
    scope(|threads| {
        let shares: Vec<_> = items.chunks(size).map(|share| threads.spawn(move || share.iter().map(work).collect::<Vec<R>>())).collect();
        let mut results = Vec::with_capacity(items.len());
        for share in shares {
            results.extend(share.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        results
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_items() {
        for (count, least) in [(0, 1), (1, 1), (2, 1), (7, 3), (1000, 1), (1000, 0), (3, 1000)] {
            let items: Vec<usize> = (0..count).collect();
            assert_eq!(spread(&items, least, |n| n * 2), items.iter().map(|n| n * 2).collect::<Vec<_>>(), "{count} by {least}");
        }
    }
}
