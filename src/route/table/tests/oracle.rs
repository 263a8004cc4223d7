//! The table against a linear scan with an order of its own.

use super::super::*;
use crate::{
    model::ResourceName,
    route::testing::{any_match, any_request, naive_match},
};
use proptest::prelude::*;
use std::cmp::Ordering;

/// Better first, written apart from `Precedence`.
fn naive_order(a: &Entry<usize>, b: &Entry<usize>) -> Ordering {
    let kind = |entry: &Entry<usize>| match &entry.matching.path {
        PathPattern::Exact(_) => (0, 0),
        PathPattern::Regex(pattern) => (1, pattern.len()),
        PathPattern::Prefix(prefix) => (2, prefix.strip_suffix('/').unwrap_or(prefix).len()),
    };
    let ((kind_a, length_a), (kind_b, length_b)) = (kind(a), kind(b));
    let number = |entry: &Entry<usize>| {
        let matching = &entry.matching;
        (usize::from(matching.method.is_some()), matching.headers.len(), matching.query.len())
    };
    kind_a
        .cmp(&kind_b)
        .then(length_b.cmp(&length_a))
        .then(number(b).cmp(&number(a)))
        .then(a.rank.created.unwrap_or(i64::MAX).cmp(&b.rank.created.unwrap_or(i64::MAX)))
        .then(a.rank.route.to_string().cmp(&b.rank.route.to_string()))
        .then(a.rank.rule.cmp(&b.rank.rule))
        .then(a.rank.index.cmp(&b.rank.index))
}

fn any_rank() -> impl Strategy<Value = Rank> {
    let name = || prop::sample::select(&["a", "a-b", "b"][..]);
    (prop::option::of(0_i64..2), name(), name(), 0_usize..2, 0_usize..2).prop_map(|(created, namespace, name, rule, index)| Rank {
        created,
        route: ResourceName::new(namespace, name),
        rule,
        index,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_table_agrees_with_a_linear_scan(
        matches in prop::collection::vec((any_match(), any_rank()), 0..24),
        requests in prop::collection::vec(any_request(), 1..12),
    ) {
        let mut entries: Vec<Entry<usize>> =
            matches.into_iter().enumerate().map(|(payload, (matching, rank))| Entry { matching, rank, payload }).collect();
        let table = RouteTable::build(entries.clone()).unwrap();
        entries.sort_by(naive_order);
        prop_assert_eq!(table.len(), entries.len());
        for request in requests {
            let expected = entries.iter().find(|entry| naive_match(&entry.matching, &request)).map(|entry| entry.payload);
            prop_assert_eq!(table.find(&request.view()).map(|found| *found.payload), expected, "{:?}", request);
        }
    }
}
