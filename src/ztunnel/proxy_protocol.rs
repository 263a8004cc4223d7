//! The PROXY protocol, version 2, towards a workload that asks for it: whose connection it is, which
//! our own socket no longer tells. Never read.

use crate::model::Identity;
use std::net::{IpAddr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// Istio's: the SPIFFE identity of the client, as text.
const TLV_IDENTITY: u8 = 0xd0;

/// The header of a connection from `source` to `destination`. Where their families differ, the IPv4
/// address is written as a mapped IPv6 address: the protocol has room for one family only.
pub(super) fn header(source: SocketAddr, destination: SocketAddr, identity: Option<&Identity>) -> Vec<u8> {
    let (family, addresses) = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (TCP_OVER_IPV4, [from.octets(), to.octets()].concat()),
        (from, to) => (TCP_OVER_IPV6, [wide(from), wide(to)].concat()),
    };
    let mut rest = addresses;
    rest.extend(source.port().to_be_bytes());
    rest.extend(destination.port().to_be_bytes());
    if let Some(identity) = identity {
        rest.push(TLV_IDENTITY);
        push_with_length(&mut rest, identity.as_str().as_bytes());
    }
    let mut header = SIGNATURE.to_vec();
    header.extend([PROXY, family]);
    push_with_length(&mut header, &rest);
    header
}

fn wide(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// `bytes` after their length. An identity has 2048 of them at most, so that the length always fits.
fn push_with_length(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u16).to_be_bytes());
    to.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(source: &str, destination: &str, identity: Option<&Identity>) -> Vec<u8> {
        header(source.parse().unwrap(), destination.parse().unwrap(), identity)
    }

    #[test]
    fn headers_are_as_the_protocol_has_them() {
        let v4 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x0a\x00\x00\x01\xc6\x33\x64\x02\xc0\x00\x00\x50";
        assert_eq!(bytes("10.0.0.1:49152", "198.51.100.2:80", None), v4);
        let mut v6 = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24".to_vec();
        v6.extend(b"\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\xc0\x00\x00\x50");
        assert_eq!(bytes("[fd00::1]:49152", "[fd00::2]:80", None), v6);
    }

    #[test]
    fn a_client_that_has_proved_who_it_is_is_named() {
        let identity = Identity::new("td", "ns", "sa").unwrap();
        let mut want = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x26\x0a\x00\x00\x01\x0a\x00\x00\x02\x00\x01\xff\xff".to_vec();
        want.extend(b"\xd0\x00\x17spiffe://td/ns/ns/sa/sa");
        assert_eq!(bytes("10.0.0.1:1", "10.0.0.2:65535", Some(&identity)), want);
    }

    #[test]
    fn unlike_families_are_both_written_as_ipv6() {
        let mapped = b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\x00\x00\x01";
        let plain = b"\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02";
        let rows = [("10.0.0.1:1", "[fd00::2]:2", [mapped, plain]), ("[fd00::2]:1", "10.0.0.1:2", [plain, mapped])];
        for (source, destination, addresses) in rows {
            let header = bytes(source, destination, None);
            assert_eq!((header[13], &header[14..16]), (TCP_OVER_IPV6, &b"\x00\x24"[..]), "{source} to {destination}");
            assert_eq!(header[16..48], *addresses.map(|a| *a).concat(), "{source} to {destination}");
            assert_eq!(header[48..], *b"\x00\x01\x00\x02");
        }
    }
}
