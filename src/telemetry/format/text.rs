//! Text lines.

use super::{Timestamp, detail, millis, protocol};
use crate::telemetry::{HttpRecord, Record, TcpEvent, TcpParty, TcpRecord};
use std::{
    fmt::Display,
    io::{self, Write},
};

/// Appends one line.
pub(crate) fn write_text(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::Http(r) => http(r, out),
        Record::Tcp(r) => tcp(r, out),
    }
    .expect("a Vec takes everything");
    out.push(b'\n');
}

/// Istio's default format, field by field, with what a waypoint knows beyond Envoy at the end.
fn http(r: &HttpRecord, out: &mut Vec<u8>) -> io::Result<()> {
    write!(out, "[{}] \"", Timestamp { time: r.start, digits: 3 })?;
    escape(r.method.as_str().as_bytes(), out)?;
    out.push(b' ');
    escape(r.path.as_ref().map_or("-", |p| p.as_str()).as_bytes(), out)?;
    write!(out, " {}\" {} {} {}", protocol(r.protocol), r.status.map_or(0, |s| s.as_u16()), r.flag, detail(r))?;
    // Connection termination details and upstream transport failure reason.
    write!(out, " - ")?;
    quoted(r.error.as_deref().map(str::as_bytes), out)?;
    // The dash is the upstream service time.
    write!(out, " {} {} {} - ", r.bytes_received, r.bytes_sent, millis(r.duration))?;
    quoted(r.forwarded_for.as_ref().map(|v| v.as_bytes()), out)?;
    out.push(b' ');
    quoted(r.user_agent.as_ref().map(|v| v.as_bytes()), out)?;
    out.push(b' ');
    quoted(r.request_id.as_ref().map(|v| v.as_bytes()), out)?;
    out.push(b' ');
    quoted(r.authority.as_deref().map(str::as_bytes), out)?;
    write!(out, " \"{}\" ", or_dash(r.upstream))?;
    plain(r.backend.as_deref(), out)?;
    // Upstream local address, and requested server name after the downstream's two.
    write!(out, " - {} {} - ", or_dash(r.destination), r.downstream)?;
    plain(r.route.as_deref(), out)?;
    let rest = [
        ("source_principal", r.source.as_ref().map(|i| i.as_str())),
        ("source_workload", r.source_workload.as_deref()),
        ("destination_principal", r.upstream_identity.as_ref().map(|i| i.as_str())),
        ("destination_service", r.destination_service.as_deref()),
        ("policy", r.policy.as_deref()),
    ];
    for (key, value) in rest {
        write!(out, " {key}=")?;
        quoted(value.map(str::as_bytes), out)?;
    }
    write!(out, " grpc_status={} attempts={}", or_dash(r.grpc_status), r.attempts)
}

/// ztunnel's line.
fn tcp(r: &TcpRecord, out: &mut Vec<u8>) -> io::Result<()> {
    let (level, message) = level_and_message(r);
    write!(out, "{}\t{level}\taccess\t{message}\t", Timestamp { time: r.time, digits: 6 })?;
    if r.event == TcpEvent::Refused {
        write!(out, "src.addr={} dst.addr={} direction=\"{}\"", r.source.addr, r.destination.addr, r.direction.as_str())?;
        return field(" error", r.error.as_deref(), out);
    }
    party("src", &r.source, out, |_| Ok(()))?;
    out.push(b' ');
    party("dst", &r.destination, out, |out| {
        if let Some(addr) = &r.hbone_addr {
            write!(out, " dst.hbone_addr=")?;
            plain(Some(addr), out)?;
        }
        field(" dst.service", r.destination_service.as_deref(), out)
    })?;
    write!(out, " direction=\"{}\"", r.direction.as_str())?;
    if r.event == TcpEvent::Opened {
        return Ok(());
    }
    write!(out, " bytes_sent={} bytes_recv={} duration=\"{}ms\"", r.bytes_sent, r.bytes_recv, millis(r.duration))?;
    field(" error", r.error.as_deref(), out)
}

pub(super) fn level_and_message(r: &TcpRecord) -> (&'static str, &'static str) {
    match r.event {
        TcpEvent::Opened => ("debug", "connection opened"),
        TcpEvent::Refused => ("warn", "connection failed"),
        TcpEvent::Complete if r.is_failure() => ("error", "connection complete"),
        TcpEvent::Complete => ("info", "connection complete"),
    }
}

/// `between` writes what ztunnel prints after the address of this side.
fn party(side: &str, p: &TcpParty, out: &mut Vec<u8>, between: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
    write!(out, "{side}.addr={}", p.addr)?;
    between(out)?;
    let fields = [
        ("workload", p.workload.as_deref()),
        ("namespace", p.namespace.as_deref()),
        ("identity", p.identity.as_ref().map(|i| i.as_str())),
        ("cluster", p.cluster.as_deref()),
    ];
    for (key, value) in fields {
        if value.is_some() {
            write!(out, " {side}.")?;
            field(key, value, out)?;
        }
    }
    Ok(())
}

/// `key="value"`, or nothing.
fn field(key: &str, value: Option<&str>, out: &mut Vec<u8>) -> io::Result<()> {
    let Some(value) = value else { return Ok(()) };
    write!(out, "{key}=")?;
    quoted(Some(value.as_bytes()), out)
}

fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".into(), |v| v.to_string())
}

/// A value in quotes; `-` when there is none.
fn quoted(value: Option<&[u8]>, out: &mut Vec<u8>) -> io::Result<()> {
    out.push(b'"');
    escape(value.unwrap_or(b"-"), out)?;
    out.push(b'"');
    Ok(())
}

/// A value without quotes, unless it could be taken for more than one.
fn plain(value: Option<&str>, out: &mut Vec<u8>) -> io::Result<()> {
    let value = value.unwrap_or("-");
    let simple = !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'='));
    if simple { out.write_all(value.as_bytes()) } else { quoted(Some(value.as_bytes()), out) }
}

/// Everything but printable ASCII becomes `\xNN`; quotes and backslashes get a backslash.
fn escape(value: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    for &byte in value {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            b' '..=b'~' => out.push(byte),
            other => write!(out, "\\x{other:02x}")?,
        }
    }
    Ok(())
}
