//! Finding the rule of a request, among many.
//!
//! A quarter each of exact paths, prefixes, exact paths with a method, and matches of one path that
//! are told apart by a header. The last are what no index helps with: the worst case, and what a
//! canary for each tenant looks like.

use cairn::{
    model::{HeaderMatch, PathPattern, ResourceName, RouteMatch, ValueMatch},
    route::{Entry, Rank, RequestView, RouteTable},
};
use divan::{Bencher, black_box};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

const RULES: &[usize] = &[10, 1_000, 10_000];
const TENANT: HeaderName = HeaderName::from_static("x-tenant");

fn matching(number: usize) -> RouteMatch {
    let (path, method, headers) = match number % 4 {
        0 => (PathPattern::Exact(format!("/exact/{number}").into()), None, Vec::new()),
        1 => (PathPattern::Prefix(format!("/prefix/{number}").into()), None, Vec::new()),
        2 => (PathPattern::Exact(format!("/method/{number}").into()), Some(Method::GET), Vec::new()),
        _ => {
            let header = HeaderMatch { name: TENANT, value: ValueMatch::Exact(number.to_string().into()) };
            (PathPattern::Prefix("/tenants".into()), None, vec![header])
        }
    };
    RouteMatch { path, method, headers, query: Vec::new() }
}

fn table(rules: usize) -> RouteTable<usize> {
    let rank = |number| Rank { created: None, route: ResourceName::new("bench", "route"), rule: number, index: 0 };
    let entries = (0..rules).map(|number| Entry { matching: matching(number), rank: rank(number), payload: number });
    RouteTable::build(entries.collect()).unwrap()
}

fn find(bencher: Bencher<'_, '_>, rules: usize, path: &str, tenant: Option<usize>, expected: Option<usize>) {
    let table = table(rules);
    let mut headers = HeaderMap::new();
    headers.insert("user-agent", HeaderValue::from_static("bench"));
    if let Some(tenant) = tenant {
        headers.insert(TENANT, HeaderValue::from_str(&tenant.to_string()).unwrap());
    }
    let request = RequestView { path, query: None, method: &Method::GET, headers: &headers };
    assert_eq!(table.find(&request).map(|found| *found.payload), expected);
    bencher.bench_local(|| table.find(black_box(&request)).map(|found| *found.payload));
}

/// The last of its kind: the most that a table of so many rules has to look at.
fn last(rules: usize, kind: usize) -> usize {
    (0..rules).rev().find(|number| number % 4 == kind).unwrap()
}

#[divan::bench(args = RULES)]
fn hit_exact(bencher: Bencher<'_, '_>, rules: usize) {
    find(bencher, rules, "/exact/0", None, Some(0));
}

#[divan::bench(args = RULES)]
fn hit_method(bencher: Bencher<'_, '_>, rules: usize) {
    let number = last(rules, 2);
    find(bencher, rules, &format!("/method/{number}"), None, Some(number));
}

#[divan::bench(args = RULES)]
fn hit_prefix(bencher: Bencher<'_, '_>, rules: usize) {
    let number = last(rules, 1);
    find(bencher, rules, &format!("/prefix/{number}/a/b"), None, Some(number));
}

#[divan::bench(args = RULES)]
fn hit_first_header(bencher: Bencher<'_, '_>, rules: usize) {
    find(bencher, rules, "/tenants/a", Some(3), Some(3));
}

#[divan::bench(args = RULES)]
fn hit_last_header(bencher: Bencher<'_, '_>, rules: usize) {
    let number = last(rules, 3);
    find(bencher, rules, "/tenants/a", Some(number), Some(number));
}

#[divan::bench(args = RULES)]
fn miss_path(bencher: Bencher<'_, '_>, rules: usize) {
    find(bencher, rules, "/nowhere/at/all", None, None);
}

#[divan::bench(args = RULES)]
fn miss_header(bencher: Bencher<'_, '_>, rules: usize) {
    find(bencher, rules, "/tenants/a", None, None);
}

#[divan::bench(args = RULES, sample_count = 20)]
fn build(bencher: Bencher<'_, '_>, rules: usize) {
    bencher.bench_local(|| table(rules));
}
