//! Real ztunnels in a test mesh, and a SOCKS5 client.

use super::{Mesh, mesh};
use cairn::{
    app::{CertificatesFrom, MeshFrom, Mode, NodeOptions, Running, ZtunnelOptions, start_ztunnel},
    cert::DevCa,
    model::{Identity, ResourceName},
    settings::{ListenAddress, WorkloadName, ZtunnelListeners},
    telemetry::{AccessLog, Record, log},
    ztunnel,
};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};

/// A ztunnel for one pod.
#[derive(Debug)]
pub struct Ztunnel {
    pub running: Option<Running>,
    pub records: mpsc::Receiver<Record>,
}

impl Mesh {
    /// A ztunnel for the pod `NAME` at NET.`ip`, which runs as `app/ACCOUNT`: HBONE on the pod's
    /// address, SOCKS5 and the captured ports there too, on free ports.
    pub fn ztunnel(&self, name: &str, account: &str, ip: u8) -> Ztunnel {
        self.ztunnel_at(name, account, ip, self.net.addr(ip, 0))
    }

    /// The same, with the captured ports elsewhere.
    pub fn ztunnel_at(&self, name: &str, account: &str, ip: u8, captured: SocketAddr) -> Ztunnel {
        let identity = Identity::new(mesh::TRUST_DOMAIN, mesh::NS, account).unwrap();
        let certs = self.dir.path().join("certs");
        DevCa::write_directory(&certs, mesh::TRUST_DOMAIN, &[identity], Duration::from_secs(3600)).unwrap();
        let free = ListenAddress::At(captured);
        let mut config = ztunnel::Config::default();
        config.hbone.source_address = Some(self.net.ip(ip));
        let options = ZtunnelOptions {
            mode: Mode::Dedicated { workload: Some(WorkloadName { name: ResourceName::new(mesh::NS, name), service_account: None }) },
            mesh: MeshFrom::Manifests(mesh::source(vec![self.dir.path().join("manifests")], false)),
            certificates: CertificatesFrom::Directory(certs.join(mesh::NS).join(account)),
            process: mesh::process(Duration::from_secs(5)),
            listeners: ZtunnelListeners {
                hbone_address: ListenAddress::At(self.net.addr(ip, 15008)),
                plaintext_address: free,
                outbound_address: free,
                socks5_address: free,
                admin: mesh::admin(),
            },
            config,
            node: NodeOptions::default(),
        };
        let (log, records) = AccessLog::capture();
        let running = start_ztunnel(options, log, log::init(Some("off"), false)).expect("the ztunnel starts");
        Ztunnel { running: Some(running), records }
    }
}

impl Ztunnel {
    /// The address of a listener.
    pub fn bound(&self, name: &str) -> SocketAddr {
        self.running.as_ref().unwrap().bound.get(name).unwrap()
    }

    /// A connection through SOCKS5, or the code of the refusal.
    pub async fn socks5(&self, host: &str, port: u16) -> Result<TcpStream, u8> {
        let mut stream = TcpStream::connect(self.bound("socks5")).await.unwrap();
        let mut request = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(host.len()).unwrap()];
        request.extend_from_slice(host.as_bytes());
        request.extend_from_slice(&port.to_be_bytes());
        stream.write_all(&request).await.unwrap();
        let mut reply = [0; 12];
        super::soon("SOCKS5 reply", stream.read_exact(&mut reply)).await.unwrap();
        assert_eq!(&reply[..3], &[5, 0, 5]);
        if reply[3] != 0 { Err(reply[3]) } else { Ok(stream) }
    }
}
