//! Services that claim the same address or host name.

use super::NodeService;
use crate::model::Visibility;
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

/// Those that claim one thing, in the order in which they come when a client has no preference.
#[derive(Debug, Clone)]
pub(super) enum Owners {
    One(Arc<NodeService>),
    Many(Arc<[Arc<NodeService>]>),
}

impl Owners {
    /// `None` without any.
    pub(super) fn new(mut services: Vec<Arc<NodeService>>) -> Option<Self> {
        match services.len() {
            0 => None,
            1 => services.pop().map(Self::One),
            _ => Some(Self::Many(services.into())),
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<NodeService>> {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
        .iter()
    }

    /// Those that a client of a namespace may address.
    pub(super) fn visible<'a>(&'a self, client: &'a str) -> impl Iterator<Item = &'a Arc<NodeService>> {
        self.all().filter(move |s| s.service.l4.visibility == Visibility::Public || is_in(s, client))
    }

    /// The one that a client of a namespace means.
    pub(super) fn for_client<'a>(&'a self, client: &'a str) -> Option<&'a Arc<NodeService>> {
        let own = self.visible(client).find(|s| is_in(s, client));
        own.or_else(|| self.visible(client).next())
    }
}

fn is_in(service: &NodeService, namespace: &str) -> bool {
    *service.service.key.namespace == *namespace
}

/// Virtual addresses that are ranges, by the length of their prefix: there are few lengths.
#[derive(Debug, Default)]
pub(super) struct Ranges(BTreeMap<u8, HashMap<IpNet, Owners>>);

impl Ranges {
    /// Of services in the order of [`Owners`].
    pub(super) fn new(services: impl IntoIterator<Item = Arc<NodeService>>) -> Self {
        let mut claims: BTreeMap<u8, HashMap<IpNet, Vec<Arc<NodeService>>>> = BTreeMap::new();
        for service in services {
            for range in &service.service.l4.ranges {
                claims.entry(range.prefix_len()).or_default().entry(range.trunc()).or_default().push(service.clone());
            }
        }
        let owners = |claims: HashMap<IpNet, Vec<Arc<NodeService>>>| {
            claims.into_iter().filter_map(|(range, services)| Some((range, Owners::new(services)?))).collect()
        };
        Self(claims.into_iter().map(|(length, claims)| (length, owners(claims))).collect())
    }

    /// The service whose range an address is in: the client's own namespace first, then the longest
    /// prefix (contract, 2.4).
    pub(super) fn find<'a>(&'a self, address: IpAddr, client: &'a str) -> Option<&'a Arc<NodeService>> {
        let longest_first = || {
            self.0.iter().rev().filter_map(|(length, ranges)| {
                let range = IpNet::new(address, *length).ok()?.trunc();
                ranges.get(&range)
            })
        };
        let own = longest_first().filter_map(|owners| owners.for_client(client)).find(|s| is_in(s, client));
        own.or_else(|| longest_first().find_map(|owners| owners.for_client(client)))
    }
}
