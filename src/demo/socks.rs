//! A SOCKS5 client, as small as the demo needs it: what `curl --socks5-hostname` does.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use std::{io, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocksError {
    /// The connection failed.
    #[error("connection failed")]
    Io(#[from] io::Error),
    /// The proxy refused (RFC 1928, 6).
    #[error("refused by the proxy with code {0}")]
    Refused(u8),
    /// HTTP failed.
    #[error("http failed")]
    Http(#[from] hyper::Error),
}

/// Sends a request to `host:port` through a proxy, on a connection of its own.
pub(super) async fn send(proxy: SocketAddr, host: &str, port: u16, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, SocksError> {
    let stream = connect(proxy, host, port).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the exchange: the sender is dropped then.
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}

async fn connect(proxy: SocketAddr, host: &str, port: u16) -> Result<TcpStream, SocksError> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.write_all(&[5, 1, 0]).await?;
    let mut method = [0; 2];
    stream.read_exact(&mut method).await?;
    let length = u8::try_from(host.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut request = vec![5, 1, 0, 3, length];
    request.extend_from_slice(host.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await?;
    if reply[1] != 0 {
        return Err(SocksError::Refused(reply[1]));
    }
    let address = if reply[3] == 4 { 16 } else { 4 };
    let mut rest = [0; 18];
    stream.read_exact(&mut rest[..address + 2]).await?;
    Ok(stream)
}
