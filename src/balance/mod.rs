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
}
