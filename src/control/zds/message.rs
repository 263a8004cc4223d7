//! The packets: protobuf to words and back.

use super::{Pod, PodInfo, connection::Packet};
use crate::{model::Name, transport::Netns};
use prost::Message as _;
use proto::{Ack, AddWorkload, Version, WorkloadResponse, ZdsHello, workload_request, workload_response};
use std::{io, sync::Arc};

/// What `build.rs` makes of `proto/zds.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/istio.workload.zds.rs"));
}

/// The text of a refusal is cut so that the packet fits the buffer of the other side.
const MAX_ERROR: usize = 512;

/// What the CNI asks for.
#[derive(Debug)]
pub(super) enum Request {
    /// Serve a pod.
    Add(Pod),
    /// The pod with this uid stays as it is.
    Keep(Name),
    /// The pod with this uid is gone.
    Del(Name),
    /// The snapshot is complete.
    SnapshotSent,
    /// A pod to serve, of which is not said who it is.
    AddWithoutInfo(Name),
}

/// Why a packet cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("the packet is longer than {} bytes", super::connection::PACKET)]
    Truncated,
    #[error("the packet's file descriptors cannot all be received")]
    DescriptorsTruncated,
    #[error("not a WorkloadRequest: {0}")]
    Protobuf(#[from] prost::DecodeError),
    #[error("a WorkloadRequest of a kind that is not known")]
    UnknownRequest,
    #[error("the uid is empty")]
    NoUid,
    #[error("{0} file descriptors came along, and exactly one is expected: the pod's network namespace")]
    NotOneDescriptor(usize),
    #[error("{0} file descriptors came along with a request that has none")]
    UnexpectedDescriptors(usize),
    #[error("the network namespace cannot be looked at: {0}")]
    Netns(io::Error),
}

/// The first packet.
pub(super) fn hello() -> Vec<u8> {
    ZdsHello { version: Version::V1.into() }.encode_to_vec()
}

/// The answer to a request: done, or why not.
pub(super) fn ack(result: Result<(), &str>) -> Vec<u8> {
    let error = match result {
        Ok(()) => String::new(),
        // An empty text would say that all is well.
        Err("") => "failed".to_owned(),
        Err(error) => error[..error.floor_char_boundary(MAX_ERROR)].to_owned(),
    };
    WorkloadResponse { payload: Some(workload_response::Payload::Ack(Ack { error })) }.encode_to_vec()
}

/// What a packet asks for.
pub(super) fn decode(packet: Packet) -> Result<Request, Unreadable> {
    use workload_request::Payload;
    let Packet { bytes, mut descriptors, truncated, descriptors_truncated } = packet;
    if truncated {
        return Err(Unreadable::Truncated);
    }
    if descriptors_truncated {
        return Err(Unreadable::DescriptorsTruncated);
    }
    let payload = proto::WorkloadRequest::decode(&*bytes)?.payload.ok_or(Unreadable::UnknownRequest)?;
    let expected = usize::from(matches!(payload, Payload::Add(_)));
    if descriptors.len() != expected {
        let error = if expected == 1 { Unreadable::NotOneDescriptor } else { Unreadable::UnexpectedDescriptors };
        return Err(error(descriptors.len()));
    }
    match (payload, descriptors.pop()) {
        (Payload::Add(add), Some(descriptor)) => decode_add(add, Netns::new(descriptor).map_err(Unreadable::Netns)?),
        (Payload::Add(_), None) => Err(Unreadable::NotOneDescriptor(0)),
        (Payload::Keep(keep), _) => Ok(Request::Keep(uid(&keep.uid)?)),
        (Payload::Del(del), _) => Ok(Request::Del(uid(&del.uid)?)),
        (Payload::SnapshotSent(proto::SnapshotSent {}), _) => Ok(Request::SnapshotSent),
    }
}

fn decode_add(add: AddWorkload, netns: Netns) -> Result<Request, Unreadable> {
    let uid = uid(&add.uid)?;
    if !netns.is_namespace() {
        tracing::warn!(pod = &*uid, ?netns, "the CNI passed a file that is not a network namespace");
    }
    Ok(match add.workload_info {
        None => Request::AddWithoutInfo(uid),
        Some(info) => Request::Add(Pod {
            uid,
            info: PodInfo { name: info.name.into(), namespace: info.namespace.into(), service_account: info.service_account.into() },
            netns: Arc::new(netns),
        }),
    })
}

fn uid(text: &str) -> Result<Name, Unreadable> {
    if text.is_empty() { Err(Unreadable::NoUid) } else { Ok(text.into()) }
}
