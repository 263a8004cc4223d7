//! Services whose virtual addresses are whole ranges.

use super::Ports;
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

/// The ports of services by range, and those by the length of the prefix: there are few lengths.
#[derive(Debug, Default)]
pub(super) struct Ranges(BTreeMap<u8, HashMap<IpNet, Ports>>);

impl Ranges {
    /// Gives a range to a service, unless another one that came before has it.
    pub(super) fn add(&mut self, range: IpNet, ports: impl FnOnce(IpAddr) -> Ports) {
        let range = range.trunc();
        self.0.entry(range.prefix_len()).or_default().entry(range).or_insert_with(|| ports(range.network()));
    }

    /// What has the longest prefix of those that an address is in.
    pub(super) fn find(&self, address: IpAddr) -> Option<&Ports> {
        self.0.iter().rev().find_map(|(length, ranges)| ranges.get(&IpNet::new(address, *length).ok()?.trunc()))
    }

    /// All of them.
    pub(super) fn values(&self) -> impl Iterator<Item = &Ports> {
        self.0.values().flat_map(HashMap::values)
    }
}
