//! The report, for somebody who sees a mesh for the first time.

use super::{
    city::City,
    traffic::{PathTaken, Tour},
};
use std::{fmt::Write as _, time::Duration};

/// Printed once, at the start.
pub(super) fn welcome(city: &City) -> String {
    let workloads = city.workloads.len();
    let through = city
        .feed
        .address()
        .map(|at| format!(",\nof which a control plane at {at} tells the proxies; it signs their certificates, too"))
        .unwrap_or_default();
    format!(
        "cairn demo: bookinfo on loopback. {workloads} workloads with certificates of their service accounts; one of them is the waypoint.\n\
         Configured by the Kubernetes manifests in {}{through}\n",
        city.manifests.display()
    )
}

/// One round.
pub(super) fn report(tour: &Tour) -> String {
    let mut out = String::from("\n");
    path(&mut out, tour.path.as_ref());
    split(&mut out, tour);
    let _ = writeln!(out, "\nWith the header end-user: jason, reviews answered from {}.", tour.tester);
    out.push_str("\nRefused by policy:\n");
    for refused in &tour.denied {
        let _ = writeln!(out, "  {:<42} {} {}\n      decided by {}", refused.what, refused.status, refused.body, refused.policy);
    }
    match tour.retried {
        Some((tries, status)) => {
            let _ = writeln!(
                out,
                "\nRetried: ratings failed once with 503; the waypoint tried again, and after {tries} tries it was {status}."
            );
        }
        None => out.push_str("\nRetried: no record of the request.\n"),
    }
    if let Some((status, pods)) = &tour.page {
        let _ = writeln!(out, "\nA whole page: {} from {pods}.", status.as_u16());
    }
    let ms = |part: f64| millis(quantile(&tour.latencies, part));
    let _ = writeln!(
        out,
        "\nLatency of {} requests, each on a new connection: p50 {}, p90 {}, p99 {}.",
        tour.latencies.len(),
        ms(0.5),
        ms(0.9),
        ms(0.99)
    );
    out
}

/// What to try.
pub(super) fn invitation(city: &City) -> String {
    let admin = |name| city.waypoint.bound.get(name).map(|a| a.to_string()).unwrap_or_default();
    let socks = city.socks5;
    format!(
        "\nTry it (as the workload curl):\n\
         \x20 curl --socks5-hostname {socks} http://reviews:9080/reviews/0\n\
         \x20 curl --socks5-hostname {socks} -H 'end-user: jason' http://productpage:9080/productpage\n\
         \x20 curl --socks5-hostname {socks} http://ratings:9080/ratings/0        # 403: only reviews may\n\
         \x20 curl http://{}/metrics\n\
         \x20 curl http://{}/config_dump\n\
         Change the weights in {}/routes.yaml and see the next report. Ctrl-C ends.\n",
        admin("metrics"),
        admin("admin"),
        city.manifests.display()
    )
}

fn path(out: &mut String, path: Option<&PathTaken>) {
    let Some(path) = path else {
        out.push_str("The path of a request: no answer.\n");
        return;
    };
    let (client_ip, client, client_node) = &path.client;
    let (workload, identity, node) = &path.workload;
    let _ = writeln!(out, "The path of a request to reviews ({}), by rule {}:", path.service, path.route);
    let _ = writeln!(out, "  curl                {client_ip}   plain, into its own ztunnel");
    let _ = writeln!(out, "    | ztunnel {client_node:<10} as {client}");
    let _ = writeln!(out, "    v mTLS, HBONE CONNECT {}", path.service);
    let _ = writeln!(out, "  waypoint            is {}", path.waypoint);
    let _ = writeln!(out, "    | routes, policy, retries");
    let _ = writeln!(out, "    v mTLS, HBONE CONNECT {workload}");
    let _ = writeln!(out, "  ztunnel {node:<11} as {identity}");
    let _ = writeln!(out, "    v plain, inside the pod");
    let _ = writeln!(out, "  the application     {workload}");
}

fn split(out: &mut String, tour: &Tour) {
    let total: usize = tour.split.values().sum();
    let _ = writeln!(out, "\nThe split of reviews, {total} requests:");
    for (pod, count) in &tour.split {
        let share = *count as f64 * 100.0 / total.max(1) as f64;
        let bar = "#".repeat((share / 2.5).round() as usize);
        let _ = writeln!(out, "  {pod:<12} {count:>4}  {share:>5.1} %  {bar}");
    }
    if tour.failed > 0 {
        let _ = writeln!(out, "  not answered {:>4}", tour.failed);
    }
}

fn quantile(sorted: &[Duration], part: f64) -> Duration {
    let at = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or_default()
}

fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sample() {
        let sorted: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&sorted, 0.5), Duration::from_millis(50));
        assert_eq!(quantile(&sorted, 0.99), Duration::from_millis(99));
        assert_eq!(quantile(&sorted[..1], 0.99), Duration::from_millis(1));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
