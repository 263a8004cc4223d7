use super::{
    fixture::{Hop, pod, service},
    stand::{Place, Running, Stand, echo, says_back, socks, within},
};
use crate::{
    hbone,
    telemetry::{ResponseFlag, TcpEvent},
    transport::{Revocation, WorkloadCert},
    ztunnel::Config,
};
use std::{fs, io::ErrorKind, sync::Arc};
use tokio::io::AsyncReadExt;

/// A client's and a server's proxy, of which one looks at lists.
struct Pair {
    stand: Stand,
    lists: Arc<Revocation>,
    client: Running,
    server: Running,
    certs: [Arc<WorkloadCert>; 2],
    _file: tempfile::NamedTempFile,
}

impl Pair {
    async fn new(client_looks: bool) -> Self {
        let (mut stand, client, server) = (Stand::new(), Place::new(), Place::new());
        let port = echo(server.ip).await;
        stand.apply([
            pod("client", &client.text(), Hop::Hbone),
            pod("server", &server.text(), Hop::Hbone),
            service("server", "198.51.100.1", &[(80, port)]),
        ]);
        let file = tempfile::NamedTempFile::new().unwrap();
        let lists = Revocation::open(file.path()).unwrap();
        let looking = Config { hbone: hbone::Config { revocation: Some(lists.clone()), ..Default::default() }, ..Stand::config() };
        let configs = if client_looks { [looking, Stand::config()] } else { [Stand::config(), looking] };
        let certs = ["client", "server"].map(|name| stand.cert(name));
        let [of_client, of_server] = configs;
        let client = stand.start_certified("client", client, of_client, certs[0].clone()).await;
        let server = stand.start_certified("server", server, of_server, certs[1].clone()).await;
        Self { stand, lists, client, server, certs, _file: file }
    }

    fn revoke(&self, cert: &WorkloadCert) {
        fs::write(self.lists.path(), self.stand.revokes(cert)).unwrap();
        assert!(self.lists.reload().unwrap());
    }
}

fn tells(error: Option<&str>, cert: &WorkloadCert) {
    let serial = format!("the certificate {} of", cert.serial());
    assert!(error.is_some_and(|error| error.contains(&serial) && error.contains("is revoked")), "{error:?}");
}

#[tokio::test]
async fn connections_to_a_server_that_is_revoked_are_cut_and_no_more_are_made() {
    within(async {
        let mut pair = Pair::new(true).await;
        let mut stream = socks(pair.client.socks5, "server", 80).await.unwrap();
        says_back(&mut stream, "hello").await;
        pair.revoke(&pair.certs[1]);
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset, "cut is not ended");
        let record = pair.client.record().await;
        assert_eq!((record.event, record.flag), (TcpEvent::Complete, ResponseFlag::CertRevoked));
        tells(record.error.as_deref(), &pair.certs[1]);
        assert_eq!(socks(pair.client.socks5, "server", 80).await.unwrap_err(), 1);
        let record = pair.client.record().await;
        assert_eq!((record.event, record.flag), (TcpEvent::Complete, ResponseFlag::CertRevoked));
        tells(record.error.as_deref(), &pair.certs[1]);
    })
    .await;
}

#[tokio::test]
async fn connections_of_a_client_that_is_revoked_are_cut_and_no_more_are_taken() {
    within(async {
        let mut pair = Pair::new(false).await;
        let mut stream = socks(pair.client.socks5, "server", 80).await.unwrap();
        says_back(&mut stream, "hello").await;
        pair.revoke(&pair.certs[0]);
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset, "cut is not ended");
        let record = pair.server.record().await;
        assert_eq!((record.event, record.flag, record.bytes_sent), (TcpEvent::Complete, ResponseFlag::CertRevoked, 5));
        tells(record.error.as_deref(), &pair.certs[0]);
        socks(pair.client.socks5, "server", 80).await.unwrap_err();
        let record = pair.server.record().await;
        assert_eq!((record.event, record.flag), (TcpEvent::Refused, ResponseFlag::CertRevoked));
        tells(record.error.as_deref(), &pair.certs[0]);
    })
    .await;
}

#[tokio::test]
async fn connections_that_end_as_usual_are_not_called_revoked() {
    within(async {
        let mut pair = Pair::new(true).await;
        let mut stream = socks(pair.client.socks5, "server", 80).await.unwrap();
        says_back(&mut stream, "hello").await;
        // Somebody else's.
        pair.revoke(&pair.stand.cert("server"));
        says_back(&mut stream, "again").await;
        drop(stream);
        for running in [&mut pair.client, &mut pair.server] {
            let record = running.record().await;
            assert_eq!((record.flag, record.bytes_sent), (ResponseFlag::None, 10));
        }
    })
    .await;
}
