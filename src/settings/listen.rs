//! Where to listen.

use clap::Args;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// A listener's address, or `off`. Port 0 takes a free port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenAddress {
    /// No such listener.
    Off,
    /// This address.
    At(SocketAddr),
}

impl ListenAddress {
    /// The wildcard of IPv6, which takes both families, becomes that of IPv4.
    fn without_ipv6(&mut self) {
        if let Self::At(address) = self
            && address.ip() == Ipv6Addr::UNSPECIFIED
        {
            address.set_ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| "neither ADDRESS:PORT nor off".to_owned())
    }
}

/// Listeners of every mode.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Listeners (ADDRESS:PORT, or off; port 0 takes a free one)")]
pub struct AdminListeners {
    /// Prometheus metrics
    #[arg(long, value_name = "ADDR", default_value = "[::]:15020", env = "CAIRN_METRICS_ADDRESS")]
    pub metrics_address: ListenAddress,
    /// Readiness
    #[arg(long, value_name = "ADDR", default_value = "[::]:15021")]
    pub readiness_address: ListenAddress,
    /// Configuration dump, log level, shutdown; keep it on loopback
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15000", env = "CAIRN_ADMIN_ADDRESS")]
    pub admin_address: ListenAddress,
}

/// Listeners of a waypoint.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Listeners (ADDRESS:PORT, or off; port 0 takes a free one)")]
pub struct WaypointListeners {
    /// HBONE from ztunnels
    #[arg(long, value_name = "ADDR", default_value = "[::]:15008")]
    pub hbone_address: SocketAddr,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub admin: AdminListeners,
}

/// Listeners of a ztunnel.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Listeners (ADDRESS:PORT, or off; port 0 takes a free one)")]
pub struct ZtunnelListeners {
    /// HBONE to the workload. This and the next two only in dedicated mode: in the pods of a node the
    /// ports are fixed
    #[arg(long, value_name = "ADDR", default_value = "[::]:15008")]
    pub hbone_address: ListenAddress,
    /// Redirected plaintext to the workload
    #[arg(long, value_name = "ADDR", default_value = "[::]:15006")]
    pub plaintext_address: ListenAddress,
    /// Redirected traffic of the workload
    #[arg(long, value_name = "ADDR", default_value = "[::]:15001")]
    pub outbound_address: ListenAddress,
    /// SOCKS5 for the workload; keep it on loopback
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15080")]
    pub socks5_address: ListenAddress,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub admin: AdminListeners,
}

impl ZtunnelListeners {
    /// Keeps to IPv4 wherever no address of IPv6 was asked for by name.
    pub(super) fn without_ipv6(&mut self) {
        let admin = &mut self.admin;
        let own = [&mut self.hbone_address, &mut self.plaintext_address, &mut self.outbound_address, &mut self.socks5_address];
        let all = own.into_iter().chain([&mut admin.metrics_address, &mut admin.readiness_address, &mut admin.admin_address]);
        all.for_each(ListenAddress::without_ipv6);
    }
}
