//! Host names that workloads have in place of addresses (contract, 2.4), asked for by the process
//! itself, in its own namespace.

use super::Family;
use std::{io, net::IpAddr, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// How long a name may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Names that are asked for at a time; each holds a thread for as long as the system takes, which may
/// be longer than anybody waits.
const MAX_LOOKUPS: usize = 8;

/// Resolves host names with the resolver of the system, for one workload: one that asks for slow names
/// keeps others from nothing.
#[derive(Debug)]
pub struct Resolver {
    places: Arc<Semaphore>,
    ipv6: bool,
}

impl Resolver {
    /// `ipv6`: whether IPv6 addresses may be used.
    pub fn new(ipv6: bool) -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_LOOKUPS)), ipv6 }
    }

    /// An address of a host: a random one, of the preferred family if it has such. `None` when it has
    /// none, or no answer came within 5 s. Nothing is remembered: each connection asks anew. Cancel
    /// safe.
    pub async fn lookup_host(&self, hostname: &str, prefer: Family) -> Option<IpAddr> {
        choose(&self.lookup_all(hostname).await, prefer, self.ipv6)
    }

    /// All addresses of a host, in the order of the system; none when it has none, or no answer came
    /// within 5 s. Cancel safe.
    pub async fn lookup_all(&self, hostname: &str) -> Vec<IpAddr> {
        let lookup = async {
            let place = self.places.clone().acquire_owned().await.map_err(io::Error::other)?;
            let host = hostname.to_owned();
            // In a task of its own, which keeps the place until the system is done with the name.
            let asked = tokio::spawn(async move {
                let _place = place;
                let found = tokio::net::lookup_host((host, 0)).await?;
                Ok::<_, io::Error>(found.map(|address| address.ip().to_canonical()).collect())
            });
            asked.await.map_err(io::Error::other)?
        };
        match tokio::time::timeout(LIMIT, lookup).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!(target: "dns", hostname, %error, "host name cannot be resolved");
                Vec::new()
            }
            Err(_) => {
                tracing::debug!(target: "dns", hostname, "host name is not resolved in time");
                Vec::new()
            }
        }
    }
}

fn choose(found: &[IpAddr], prefer: Family, ipv6: bool) -> Option<IpAddr> {
    let usable = found.iter().copied().filter(|address| ipv6 || address.is_ipv4());
    let (preferred, others): (Vec<IpAddr>, Vec<IpAddr>) = usable.partition(|address| Family::of(*address) == prefer);
    let from = if preferred.is_empty() { others } else { preferred };
    fastrand::choice(from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn an_address_of_the_preferred_family_is_chosen_at_random() {
        let parse = |text: &str| -> Vec<IpAddr> { text.split_whitespace().map(|ip| ip.parse().unwrap()).collect() };
        let rows = [
            ("10.0.0.1 10.0.0.2 fd00::1", Family::V4, true, "10.0.0.1 10.0.0.2"),
            ("10.0.0.1 10.0.0.2 fd00::1", Family::V6, true, "fd00::1"),
            ("10.0.0.1 10.0.0.2 fd00::1", Family::V6, false, "10.0.0.1 10.0.0.2"),
            ("fd00::1 fd00::2", Family::V4, true, "fd00::1 fd00::2"),
            ("fd00::1", Family::V4, false, ""),
            ("", Family::V4, true, ""),
        ];
        for (found, prefer, ipv6, want) in rows {
            let found = parse(found);
            let chosen: HashSet<IpAddr> = (0..100).filter_map(|_| choose(&found, prefer, ipv6)).collect();
            assert_eq!(chosen, parse(want).into_iter().collect(), "{found:?} {prefer:?}");
        }
    }

    #[tokio::test]
    async fn the_resolver_of_the_system_is_asked() {
        let resolver = Resolver::new(true);
        assert_eq!(resolver.lookup_host("localhost", Family::V4).await, Some(IpAddr::from([127, 0, 0, 1])));
        assert_eq!(resolver.lookup_host("no such host", Family::V4).await, None);
    }
}
