//! The configuration of a resolver, resolv.conf(5), as far as it concerns us. What cannot be read is
//! skipped, as every resolver does.

use crate::model::Hostname;
use std::{
    fs, io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
};

/// Nameservers that are asked at most, as glibc has it.
const MAX_NAMESERVERS: usize = 3;
/// Search domains that are tried at most, as Kubernetes has it.
const MAX_SEARCH: usize = 32;
const PORT: u16 = 53;

/// What a resolv.conf says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// The servers to ask, in order.
    pub nameservers: Vec<SocketAddr>,
    /// What is appended to names, in order.
    pub search: Vec<Hostname>,
}

impl ResolvConf {
    /// That of this process.
    ///
    /// # Errors
    /// When `/etc/resolv.conf` cannot be read.
    pub fn system() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/etc/resolv.conf")?))
    }

    /// Reads the text of the file.
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace().take_while(|word| !word.starts_with(['#', ';']));
            match words.next() {
                Some("nameserver") => out.nameservers.extend(words.next().and_then(nameserver)),
                // The last line of either kind holds.
                Some("search") => out.search = words.filter_map(domain).take(MAX_SEARCH).collect(),
                Some("domain") => out.search = words.next().and_then(domain).into_iter().collect(),
                Some(_) | None => {}
            }
        }
        out.nameservers.truncate(MAX_NAMESERVERS);
        out
    }
}

fn nameserver(word: &str) -> Option<SocketAddr> {
    if let Ok(ip) = word.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip.to_canonical(), PORT));
    }
    let (ip, interface) = word.split_once('%')?;
    let scope = interface.parse().ok().or_else(|| index(interface))?;
    Some(SocketAddrV6::new(ip.parse().ok()?, PORT, 0, scope).into())
}

/// The number of a network interface of this process's namespace.
fn index(interface: &str) -> Option<u32> {
    let is_name = !interface.is_empty() && !interface.starts_with('.') && !interface.contains('/');
    let path = format!("/sys/class/net/{interface}/ifindex");
    is_name.then(|| fs::read_to_string(path).ok())??.trim().parse().ok()
}

fn domain(word: &str) -> Option<Hostname> {
    Some(Hostname::new(word)).filter(|domain| !domain.as_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (String, String) {
        let ResolvConf { nameservers, search } = ResolvConf::parse(text);
        let join = |all: Vec<String>| all.join(" ");
        (join(nameservers.iter().map(ToString::to_string).collect()), join(search.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn nameservers_and_search_domains_are_read() {
        let many: String = (1..=40).map(|n| format!(" d{n}.example")).collect();
        let rows = [
            (
                "search demo.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
                "10.96.0.10:53",
                "demo.svc.cluster.local svc.cluster.local cluster.local",
            ),
            ("nameserver fd00::a\nnameserver ::ffff:10.0.0.1\n", "[fd00::a]:53 10.0.0.1:53", ""),
            ("nameserver fe80::1%7", "[fe80::1%7]:53", ""),
            ("nameserver fe80::1%lo", "[fe80::1%1]:53", ""),
            ("nameserver 10.0.0.1 10.0.0.2", "10.0.0.1:53", ""),
            (
                "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4",
                "10.0.0.1:53 10.0.0.2:53 10.0.0.3:53",
                "",
            ),
            ("search a.example\nsearch B.Example. c.example\n", "", "b.example c.example"),
            ("search a.example\ndomain b.example ignored\n", "", "b.example"),
            ("domain b.example\nsearch a.example", "", "a.example"),
            ("search a.example\nsearch\n", "", ""),
            ("search . .. a.example # b.example", "", "a.example"),
            ("\tsearch\ta.example\r\n\r\n  nameserver  10.0.0.1  ", "10.0.0.1:53", "a.example"),
            // Refused, line by line.
            ("", "", ""),
            ("# nameserver 10.0.0.1\n; search a.example\n", "", ""),
            ("nameserver\nnameserver example.com\nnameserver 10.0.0.256\nnameserver fe80::1%\nnameserver fe80::1%../lo", "", ""),
            ("nameserver fe80::1%nosuchinterface\nnameserver 10.0.0.1%lo", "", ""),
            ("Nameserver 10.0.0.1\nnameservers 10.0.0.1\nsearch", "", ""),
        ];
        for (text, nameservers, search) in rows {
            assert_eq!(parse(text), (nameservers.to_owned(), search.to_owned()), "{text:?}");
        }
        assert_eq!(ResolvConf::parse(&format!("search{many}")).search.len(), 32);
    }
}
