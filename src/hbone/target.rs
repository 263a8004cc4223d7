//! The `:authority` of a CONNECT.

use crate::model::Hostname;
use std::{fmt, net::SocketAddr};

/// Where a CONNECT wants to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ConnectTarget {
    /// `ip:port`, IPv6 in brackets.
    Address(SocketAddr),
    /// `host:port`.
    Host(Hostname, u16),
}

/// Why an authority names no target; each is answered with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No authority at all.
    #[error("no authority")]
    Missing,
    /// No port, or not a number from 1 to 65535.
    #[error("authority without a valid port")]
    Port,
    /// Neither an address nor a host name.
    #[error("authority is neither an address nor a host name")]
    Host,
}

impl ConnectTarget {
    /// Reads an authority.
    ///
    /// # Errors
    /// When it has no port or no valid host; user information is refused.
    pub fn parse(authority: &str) -> Result<Self, TargetError> {
        if authority.is_empty() {
            return Err(TargetError::Missing);
        }
        if let Ok(addr) = authority.parse::<SocketAddr>() {
            if addr.port() == 0 {
                return Err(TargetError::Port);
            }
            return Ok(Self::Address(SocketAddr::new(addr.ip().to_canonical(), addr.port())));
        }
        let (host, port) = authority.rsplit_once(':').ok_or(TargetError::Port)?;
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse::<u16>().ok().filter(|p| *p != 0 && digits).ok_or(TargetError::Port)?;
        let label = |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        // A last label of digits only would be a malformed IPv4 address (RFC 3986, 3.2.2 asks to prefer that reading).
        let numeric_end = host.rsplit('.').next().is_none_or(|l| l.bytes().all(|b| b.is_ascii_digit()));
        if host.len() > 253 || numeric_end || !host.split('.').all(label) {
            return Err(TargetError::Host);
        }
        Ok(Self::Host(Hostname::new(host), port))
    }
}

impl fmt::Display for ConnectTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(a) => a.fmt(f),
            Self::Host(h, p) => write!(f, "{h}:{p}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_read_strictly() {
        let address = |s: &str| Ok(ConnectTarget::Address(s.parse().unwrap()));
        let rows = [
            ("10.0.0.1:80", address("10.0.0.1:80")),
            ("[2001:db8::1]:443", address("[2001:db8::1]:443")),
            ("[::ffff:10.0.0.1]:80", address("10.0.0.1:80")),
            ("Reviews.Bookinfo.svc.cluster.local:9080", Ok(ConnectTarget::Host(Hostname::new("reviews.bookinfo.svc.cluster.local"), 9080))),
            ("", Err(TargetError::Missing)),
            ("10.0.0.1", Err(TargetError::Port)),
            ("10.0.0.1:0", Err(TargetError::Port)),
            ("10.0.0.1:", Err(TargetError::Port)),
            ("host:+80", Err(TargetError::Port)),
            ("host:65536", Err(TargetError::Port)),
            ("10.0.0.256:80", Err(TargetError::Host)),
            ("10.0.1:80", Err(TargetError::Host)),
            ("user@host:80", Err(TargetError::Host)),
            ("2001:db8::1:80", Err(TargetError::Host)),
            ("a..b:80", Err(TargetError::Host)),
            (":80", Err(TargetError::Host)),
        ];
        for (text, want) in rows {
            assert_eq!(ConnectTarget::parse(text), want, "{text:?}");
        }
    }
}
