//! Where the waypoints are that a ztunnel sends to.

use crate::{
    model::{AppProtocol, ResourceName, Waypoint, WaypointAddress},
    state::{Delta, Directory, Upstream, Upstreams, relation::Relation},
};
use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// The upstreams of waypoints that something is bound to, by the name of the Gateway.
#[derive(Debug, Default)]
pub(super) struct Gateways {
    known: HashMap<ResourceName, Arc<Upstream>>,
    by_address: Relation<IpAddr, Waypoint>,
    by_host: Relation<crate::model::Hostname, Waypoint>,
}

impl Gateways {
    /// Brings the upstreams up to date. Returns the waypoints that may be judged or reached in another
    /// way now.
    pub(super) fn update(&mut self, directory: &Directory, delta: &Delta, upstreams: &mut Upstreams) -> HashSet<ResourceName> {
        for changed in &delta.waypoints {
            changed.old.iter().for_each(|waypoint| self.relate(waypoint, false));
            changed.new.iter().for_each(|waypoint| self.relate(waypoint, true));
        }
        let mut changed: HashSet<ResourceName> = delta.waypoints.iter().flat_map(|c| c.each()).map(|w| w.name.clone()).collect();
        let mut moved: HashSet<ResourceName> = changed.clone();
        moved.extend(delta.services.iter().flat_map(|c| c.each()).map(|service| service.source.name.clone()));
        moved.extend(delta.vips.iter().chain(&delta.addresses).flat_map(|ip| self.by_address.of(ip)).map(|w| w.name.clone()));
        moved.extend(delta.hosts.iter().flat_map(|host| self.by_host.of(host)).map(|w| w.name.clone()));
        for name in moved {
            let Some(old) = self.known.remove(&name) else { continue };
            let new = directory.mesh().waypoints.get(&name).map(|waypoint| self.upstream(directory, waypoint, Some(&old), upstreams));
            if new.is_none_or(|new| !Arc::ptr_eq(&new, &old)) {
                changed.insert(name);
            }
            upstreams.release(&old);
        }
        changed
    }

    fn relate(&mut self, waypoint: &Arc<Waypoint>, is_there: bool) {
        for address in &waypoint.addresses {
            match (address, is_there) {
                (WaypointAddress::Ip(ip), true) => self.by_address.add(ip.to_canonical(), waypoint),
                (WaypointAddress::Ip(ip), false) => self.by_address.remove(&ip.to_canonical(), waypoint),
                (WaypointAddress::Hostname(host), true) => self.by_host.add(host.clone(), waypoint),
                (WaypointAddress::Hostname(host), false) => self.by_host.remove(host, waypoint),
            }
        }
    }

    /// The instances of a waypoint.
    pub(super) fn of(&mut self, directory: &Directory, waypoint: &Waypoint, upstreams: &mut Upstreams) -> Arc<Upstream> {
        match self.known.get(&waypoint.name) {
            Some(known) => known.clone(),
            None => self.upstream(directory, waypoint, None, upstreams),
        }
    }

    fn upstream(
        &mut self,
        directory: &Directory,
        waypoint: &Waypoint,
        old: Option<&Arc<Upstream>>,
        upstreams: &mut Upstreams,
    ) -> Arc<Upstream> {
        let of_service = directory.waypoint_service(waypoint).and_then(|s| upstreams.acquire(directory, &s.key, waypoint.port));
        let upstream = of_service.unwrap_or_else(|| {
            let ips = waypoint.addresses.iter().filter_map(|address| match address {
                WaypointAddress::Ip(ip) => Some(directory.direct(SocketAddr::new(*ip, waypoint.port))),
                WaypointAddress::Hostname(_) => None,
            });
            let fixed = old.filter(|old| old.service.is_none() && old.port == waypoint.port).cloned();
            let fixed = fixed.unwrap_or_else(|| {
                let name = format!("outbound|{}||{}", waypoint.port, waypoint.name).into();
                Arc::new(Upstream::new(None, waypoint.port, AppProtocol::Tcp, name))
            });
            fixed.replace(ips.collect());
            fixed
        });
        self.known.insert(waypoint.name.clone(), upstream.clone());
        upstream
    }
}
