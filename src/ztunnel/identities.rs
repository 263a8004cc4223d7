//! Certificates of the node's workloads: asked for before the first connection needs them, forgotten
//! when the last workload of an identity has left (contract, 5).

use crate::{
    cert::Keeper,
    model::{Identity, TunnelProtocol},
    state::{NodeSnapshot, SnapshotHandle},
};
use std::{collections::BTreeSet, sync::Arc};

/// Follows the workloads of the node until the store is gone.
pub async fn follow_identities(mesh: SnapshotHandle<NodeSnapshot>, keeper: Arc<Keeper>) {
    let mut published = mesh.published();
    let (mut known, mut seen) = (BTreeSet::new(), None::<Arc<NodeSnapshot>>);
    loop {
        let snapshot = mesh.load();
        // Nearly all that changes is elsewhere.
        if !seen.as_ref().is_some_and(|seen| seen.has_same_local(&snapshot)) {
            let now = identities(&snapshot);
            now.difference(&known).for_each(|identity| keeper.prefetch(identity));
            known.difference(&now).for_each(|identity| keeper.forget(identity));
            known = now;
        }
        seen = Some(snapshot);
        if !published.changed().await {
            return;
        }
    }
}

/// Who speaks HBONE on the node.
fn identities(snapshot: &NodeSnapshot) -> BTreeSet<Identity> {
    let workloads = snapshot.local_workloads().map(|local| &local.workload);
    workloads.filter(|workload| workload.protocol == TunnelProtocol::Hbone).map(|workload| workload.identity.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cert::{CaIssuer, DevCa},
        state::Change,
        ztunnel::tests::fixture::{Hop, mesh, pod},
    };
    use std::time::Duration;
    use tokio::runtime::Handle;

    #[tokio::test]
    async fn certificates_come_with_the_first_workload_and_go_with_the_last() {
        let ca = DevCa::create("cluster.local", Duration::from_secs(3600)).unwrap();
        let keeper = Arc::new(Keeper::new(Arc::new(CaIssuer::new(ca, Duration::from_secs(600))), Handle::current()));
        let (mut store, handle) = mesh(vec![pod("a", "10.0.0.1", Hop::Hbone).change(), pod("plain", "10.0.0.2", Hop::Plain).change()]);
        let following = tokio::spawn(follow_identities(handle, keeper.clone()));
        let kept = async |count: usize| {
            while keeper.list().len() != count {
                tokio::task::yield_now().await;
            }
            keeper.list().into_iter().map(|status| status.identity.service_account().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(kept(1).await, ["a"], "nobody asks for the certificate of a workload outside of the mesh");
        store.apply([Change::Remove(pod("a", "10.0.0.1", Hop::Hbone).0.key())]);
        assert!(kept(0).await.is_empty());
        drop(store);
        following.await.unwrap();
    }
}
