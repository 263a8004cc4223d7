//! Parsers of single values.

use crate::{control::manifest::parse_duration, model::ResourceName, runtime::workers, telemetry::log};
use std::{net::SocketAddr, str::FromStr, time::Duration};

/// `10s`, `500ms`, `1h30m` (GEP-2257).
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "not a duration like 500ms, 10s or 1h30m".to_owned())
}

/// How long a certificate lives: a [`duration`]. Its dates are whole seconds.
pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = duration(text)?;
    if lifetime < Duration::from_secs(2) { Err("a certificate lives for 2s at least".to_owned()) } else { Ok(lifetime) }
}

/// `NAMESPACE/NAME`
pub(super) fn resource_name(text: &str) -> Result<ResourceName, String> {
    match text.split('/').collect::<Vec<_>>()[..] {
        [namespace, name] if !namespace.is_empty() && !name.is_empty() => Ok(ResourceName::new(namespace, name)),
        _ => Err("not of the form NAMESPACE/NAME".to_owned()),
    }
}

/// `true` or `false`
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "neither true nor false".to_owned())
}

/// Istio's switches in the metadata of a proxy: on when they say `true`, in any case of letters.
#[allow(clippy::unnecessary_wraps, reason = "the form of a parser")]
pub(super) fn says_true(text: &str) -> Result<bool, String> {
    Ok(text.eq_ignore_ascii_case("true"))
}

/// What the log shows, as [`log::init`] reads it.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    log::check(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// A decimal number, or a hexadecimal one after `0x`.
pub(super) fn packet_mark(text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    match number {
        Ok(0) => Err("0 marks nothing".to_owned()),
        Ok(mark) => Ok(mark),
        Err(_) => Err("not a number of 32 bits like 1337 or 0x539".to_owned()),
    }
}

/// A Kubernetes quantity of CPU (`2`, `1.5`, `500m`) in whole cores, rounded up.
pub(super) fn cpus(text: &str) -> Result<usize, String> {
    let wrong = || "not a quantity of CPU like 2, 1.5 or 500m".to_owned();
    let (number, unit) = text.strip_suffix('m').map_or((text, 1.), |milli| (milli, 1000.));
    let digits = number.bytes().all(|b| b.is_ascii_digit() || b == b'.') && number.bytes().any(|b| b.is_ascii_digit());
    let cores = digits.then(|| number.parse::<f64>().ok()).flatten().ok_or_else(wrong)? / unit;
    if cores > 100_000. { Err(wrong()) } else { Ok(cores.ceil() as usize) }
}

/// A number of threads, 0 for one for each core, or a share of the cores such as `25%`.
pub(super) fn threads(text: &str) -> Result<usize, String> {
    thread_share(text, workers::cores())
}

/// [`threads`] on a machine with so many cores.
pub(super) fn thread_share(text: &str, cores: usize) -> Result<usize, String> {
    let wrong = "neither a number of threads nor a share like 25%";
    let Some(percent) = text.strip_suffix('%') else {
        let threads: usize = text.parse().map_err(|_| wrong.to_owned())?;
        return Ok(if threads == 0 { cores } else { threads });
    };
    let percent: f64 = percent.parse().map_err(|_| wrong.to_owned())?;
    if percent > 0. && percent <= 100. {
        Ok(((cores as f64 * percent / 100.).ceil() as usize).max(1))
    } else {
        Err("a share is more than 0% and at most 100%".to_owned())
    }
}

/// A workload by its names, and by its service account if that is told too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadName {
    /// Namespace and name.
    pub name: ResourceName,
    /// The account that it must run as.
    pub service_account: Option<String>,
}

impl FromStr for WorkloadName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let name = |namespace, name| ResourceName::new(namespace, name);
        match parts[..] {
            _ if parts.iter().any(|part| part.is_empty()) => Err(()),
            [namespace, pod] => Ok(Self { name: name(namespace, pod), service_account: None }),
            [namespace, pod, account] => Ok(Self { name: name(namespace, pod), service_account: Some(account.to_owned()) }),
            _ => Err(()),
        }
        .map_err(|()| "not of the form NAMESPACE/NAME or NAMESPACE/NAME/SERVICE_ACCOUNT".to_owned())
    }
}

/// An address in a pod: of its loopback, in every family that it has, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodAddress {
    /// 127.0.0.1 and, if the pod has it, `::1`.
    Localhost(u16),
    /// This address only.
    At(SocketAddr),
}

impl FromStr for PodAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| "neither ADDRESS:PORT nor localhost:PORT".to_owned();
        match text.strip_prefix("localhost:") {
            Some(port) => port.parse().map(Self::Localhost).map_err(|_| wrong(())),
            None => text.parse().map(Self::At).map_err(|_| wrong(())),
        }
    }
}
