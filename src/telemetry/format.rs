//! How records look: Istio's access log for requests, ztunnel's for connections.
use super::Record;
pub(super) fn write_text(_record: &Record, _out: &mut Vec<u8>) {}
pub(super) fn write_json(_record: &Record, _out: &mut Vec<u8>) {}
