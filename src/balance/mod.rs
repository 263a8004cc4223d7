//! Which endpoint next? Least request over two random choices.

/// Picks one of `items`: of two drawn at random, the one with less load. What `skip` names (hosts
/// already tried) is left out as long as anything else is there.
///
/// Two choices come close to the least loaded at a fraction of the cost, and unlike a scan they do
/// not send every caller to the same endpoint at the same moment (Mitzenmacher, "The Power of Two
/// Choices in Randomized Load Balancing").
pub fn pick<T>(items: &[T], load: impl Fn(&T) -> usize, skip: impl Fn(&T) -> bool, mut random: impl FnMut(usize) -> usize) -> Option<&T> {
    let open = items.iter().filter(|item| !skip(item)).count();
    if open == 0 {
        return if items.is_empty() { None } else { items.get(random(items.len())) };
    }
    let nth = |n: usize| items.iter().filter(|item| !skip(item)).nth(n);
    let first = random(open);
    if open == 1 {
        return nth(first);
    }
    // Drawn from the rest, so that the two differ.
    let second = (first + 1 + random(open - 1)) % open;
    let (a, b) = (nth(first)?, nth(second)?);
    Some(if load(b) < load(a) { b } else { a })
}

/// As [`pick`], with shares: an item is drawn in proportion to its weight, and of the two drawn the
/// one with less load for its weight wins. Items of weight 0 are never picked; nor are those that
/// `skip` names.
pub fn pick_weighted<T>(
    items: &[T],
    weight: impl Fn(&T) -> u32,
    load: impl Fn(&T) -> usize,
    skip: impl Fn(&T) -> bool,
    mut random: impl FnMut(usize) -> usize,
) -> Option<&T> {
    let share = |item: &T| if skip(item) { 0 } else { weight(item) as usize };
    let total: usize = items.iter().map(&share).sum();
    let draw = |mut ticket: usize, without: Option<usize>| {
        items.iter().enumerate().find(|(at, item)| {
            let share = if without == Some(*at) { 0 } else { share(item) };
            let is_here = ticket < share;
            ticket = ticket.saturating_sub(share);
            is_here
        })
    };
    if total == 0 {
        return None;
    }
    let (at, a) = draw(random(total), None)?;
    let rest = total - share(a);
    if rest == 0 {
        return Some(a);
    }
    let (_, b) = draw(random(rest), Some(at))?;
    Some(if load(b) * share(a) < load(a) * share(b) { b } else { a })
}

/// The least loaded of those that `skip` does not name; of several, any. For few items whose load
/// nobody else adds to: with many callers that know nothing of each other, [`pick`] is better.
pub fn least<T>(items: &[T], load: impl Fn(&T) -> usize, skip: impl Fn(&T) -> bool, mut random: impl FnMut(usize) -> usize) -> Option<&T> {
    let mut best: Option<(usize, &T)> = None;
    let mut ties = 0;
    for item in items.iter().filter(|item| !skip(item)) {
        let load = load(item);
        match best {
            Some((least, _)) if load > least => {}
            Some((least, _)) if load == least => {
                ties += 1;
                if random(ties) == 0 {
                    best = Some((load, item));
                }
            }
            Some(_) | None => (best, ties) = (Some((load, item)), 1),
        }
    }
    best.map(|(_, item)| item)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(numbers: &'static [usize]) -> impl FnMut(usize) -> usize {
        let mut numbers = numbers.iter();
        move |below| *numbers.next().expect("enough draws") % below
    }

    #[test]
    fn the_less_loaded_of_two_wins() {
        let loads = [5, 1, 9];
        assert_eq!(pick(&loads, |l| *l, |_| false, draw(&[0, 0])), Some(&1));
        assert_eq!(pick(&loads, |l| *l, |_| false, draw(&[2, 0])), Some(&5));
        assert_eq!(pick(&loads, |l| *l, |_| false, draw(&[1, 0])), Some(&1));
    }

    #[test]
    fn tried_hosts_are_avoided_while_others_are_left() {
        let items = ["a", "b"];
        assert_eq!(pick(&items, |_| 0, |i| *i == "a", draw(&[0])), Some(&"b"));
        assert!(pick(&items, |_| 0, |_| true, draw(&[1])).is_some(), "a tried host is better than none");
        assert_eq!(pick(&[] as &[&str], |_| 0, |_| false, draw(&[])), None);
    }

    #[test]
    fn equal_loads_spread_evenly() {
        let items = [0usize, 1, 2, 3];
        let mut counts = [0; 4];
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..40_000 {
            counts[*pick(&items, |_| 0, |_| false, |n| rng.usize(..n)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|c| (9_000..11_000).contains(c)), "{counts:?}");
    }

    #[test]
    fn shares_are_kept_and_nothing_without_a_share_is_picked() {
        let items = [("a", 1, 0), ("b", 3, 0), ("never", 0, 0), ("skipped", 9, 0)];
        let mut rng = fastrand::Rng::with_seed(7);
        let mut pick = |items: &[(&'static str, u32, usize)]| {
            pick_weighted(items, |i| i.1, |i| i.2, |i| i.0 == "skipped", |n| rng.usize(..n)).map(|i| i.0)
        };
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..40_000 {
            *counts.entry(pick(&items).unwrap()).or_insert(0) += 1;
        }
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), ["a", "b"]);
        assert!((9_000..11_000).contains(&counts["a"]), "{counts:?}");
        assert_eq!(pick(&[("a", 1, 4), ("b", 3, 6)]), Some("b"), "less load for its share");
        assert_eq!(pick(&[("never", 0, 0)]), None);
        assert_eq!(pick(&[("skipped", 1, 0)]), None);
        assert_eq!(pick(&[]), None);
    }

    #[test]
    fn the_least_loaded_wins_and_ties_are_spread() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut random = |n: usize| rng.usize(..n);
        assert_eq!(least(&[5, 1, 9], |l| *l, |_| false, &mut random), Some(&1));
        assert_eq!(least(&[5, 1, 9], |l| *l, |l| *l == 1, &mut random), Some(&5));
        assert_eq!(least(&[1], |l| *l, |_| true, &mut random), None);
        let mut counts = [0; 3];
        for _ in 0..30_000 {
            counts[*least(&[0usize, 1, 2], |_| 0, |_| false, &mut random).unwrap()] += 1;
        }
        assert!(counts.iter().all(|c| (9_000..11_000).contains(c)), "{counts:?}");
    }
}
