//! An HBONE client that asks for what no ztunnel would ask for.

use super::{soon, world::Pod};
use bytes::Bytes;
use cairn::{
    model::Identity,
    transport::{WorkloadCert, tls},
};
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{Method, Request, StatusCode};
use std::net::SocketAddr;

/// A tunnel; it ends with this value.
#[derive(Debug)]
pub struct Tunnel {
    send: SendRequest<Bytes>,
    connection: tokio::task::JoinHandle<()>,
}

/// A stream that was accepted.
#[derive(Debug)]
pub struct Stream {
    pub send: SendStream<Bytes>,
    pub receive: RecvStream,
}

impl Tunnel {
    /// From `pod` to port 15008 of `ip`, as `cert`; the other side must be `expected`.
    pub async fn open(pod: &Pod, to: SocketAddr, cert: &WorkloadCert, expected: &Identity) -> Result<Self, String> {
        let tcp = pod.connect(to).await.map_err(|e| format!("connect: {e}"))?;
        let (io, ..) = soon("TLS", tls::connect(tcp, cert, std::slice::from_ref(expected), None)).await.map_err(|e| format!("TLS: {e}"))?;
        let (send, connection) = soon("HTTP/2", h2::client::handshake(io)).await.map_err(|e| format!("HTTP/2: {e}"))?;
        let connection = tokio::spawn(async move { drop(connection.await) });
        // TLS 1.3 shows a refusal of the client only afterwards.
        let send = soon("the tunnel", send.ready()).await.map_err(|e| format!("HTTP/2: {e}"))?;
        Ok(Self { send, connection })
    }

    /// A CONNECT; the error is the status or what else went wrong.
    pub async fn connect(&self, authority: &str) -> Result<Stream, String> {
        let request = Request::builder().method(Method::CONNECT).uri(authority).body(()).unwrap();
        self.request(request).await
    }

    /// Any request.
    pub async fn request(&self, request: Request<()>) -> Result<Stream, String> {
        let mut ready = soon("the tunnel", self.send.clone().ready()).await.map_err(|e| format!("HTTP/2: {e}"))?;
        let (response, send) = ready.send_request(request, false).map_err(|e| format!("not sent: {e}"))?;
        let response = soon("an answer to CONNECT", response).await.map_err(|e| format!("no answer: {e}"))?;
        match response.status() {
            StatusCode::OK => Ok(Stream { send, receive: response.into_body() }),
            status => Err(status.as_u16().to_string()),
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Stream {
    /// Sends and ends; returns everything that comes back.
    pub async fn talk(mut self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        self.send.send_data(Bytes::copy_from_slice(bytes), true).map_err(|e| e.to_string())?;
        let mut all = Vec::new();
        while let Some(data) = soon("data", self.receive.data()).await {
            let data = data.map_err(|e| e.to_string())?;
            let _ = self.receive.flow_control().release_capacity(data.len());
            all.extend(data);
        }
        Ok(all)
    }
}
