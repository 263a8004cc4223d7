//! Which endpoints are near enough (contract, 2.4). Pure.

use crate::{
    model::{LoadBalancing, LoadBalancingMode, LocalityScope, Workload},
    state::UpstreamEndpoint,
};
use std::sync::Arc;

/// How near an endpoint is: on the client's network where that comes first, then how many of the
/// leading preferences it meets.
type Rank = (bool, usize);

/// Tells which of the `usable` endpoints fit the preferences of their service for a client.
pub(super) fn fitting<'a>(
    balancing: &'a LoadBalancing,
    client: &'a Workload,
    endpoints: &[Arc<UpstreamEndpoint>],
    usable: impl Fn(&Arc<UpstreamEndpoint>) -> bool,
) -> impl Fn(&Arc<UpstreamEndpoint>) -> bool + 'a {
    let rank_of = move |endpoint: &Arc<UpstreamEndpoint>| rank(&balancing.preferences, client, endpoint.workload.as_deref());
    let wanted = match balancing.mode {
        LoadBalancingMode::Any | LoadBalancingMode::Passthrough => None,
        LoadBalancingMode::Strict => Some(full(&balancing.preferences)),
        // Those without capacity are no alternative.
        LoadBalancingMode::Failover => {
            let has_share = |e: &&Arc<UpstreamEndpoint>| e.workload.as_ref().is_none_or(|w| w.l4.capacity > 0);
            endpoints.iter().filter(|e| usable(e)).filter(has_share).map(rank_of).max()
        }
    };
    move |endpoint| wanted.is_none_or(|wanted| rank_of(endpoint) == wanted)
}

fn full(preferences: &[LocalityScope]) -> Rank {
    match preferences {
        [LocalityScope::Network, rest @ ..] => (true, rest.len()),
        _ => (false, preferences.len()),
    }
}

fn rank(preferences: &[LocalityScope], client: &Workload, endpoint: Option<&Workload>) -> Rank {
    let shared = |scope: &LocalityScope| endpoint.is_some_and(|endpoint| is_shared(*scope, client, endpoint));
    let leading = |scopes: &[LocalityScope]| scopes.iter().take_while(|scope| shared(scope)).count();
    match preferences {
        // Another network is worse than any distance on this one, and not all of it is equally far.
        [LocalityScope::Network, rest @ ..] => (shared(&LocalityScope::Network), leading(rest)),
        _ => (false, leading(preferences)),
    }
}

/// Each scope for itself: the same zone does not ask for the same region.
fn is_shared(scope: LocalityScope, a: &Workload, b: &Workload) -> bool {
    match scope {
        LocalityScope::Region => a.locality.region == b.locality.region,
        LocalityScope::Zone => a.locality.zone == b.locality.zone,
        LocalityScope::Subzone => a.locality.subzone == b.locality.subzone,
        LocalityScope::Node => a.node == b.node,
        LocalityScope::Cluster => a.cluster == b.cluster,
        LocalityScope::Network => a.l4.network == b.l4.network,
    }
}
