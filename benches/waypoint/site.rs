//! The place a run happens in: addresses, certificates, files.

use cairn::{cert::DevCa, model::Identity};
use std::{
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

#[derive(Debug)]
pub struct Site {
    pub workload: SocketAddr,
    pub waypoint: SocketAddr,
    /// Of the proxy: readiness and metrics of cairn, the admin listener of Envoy.
    pub readiness: SocketAddr,
    pub metrics: SocketAddr,
    pub envoy_admin: SocketAddr,
    /// What clients address.
    pub service: SocketAddr,
    /// How many services the large mesh has.
    pub services: usize,
    dir: tempfile::TempDir,
}

impl Site {
    pub fn new(services: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let accounts = [("bench", "waypoint"), ("bench", "workload"), ("bench", "client"), ("bookinfo", "waypoint")];
        let ids = accounts.map(|(namespace, account)| Identity::new("cluster.local", namespace, account).unwrap());
        DevCa::write_directory(&dir.path().join("certs"), "cluster.local", &ids, Duration::from_secs(86_400)).unwrap();
        let at = |text: &str| text.parse().unwrap();
        Self {
            workload: at("127.0.71.3:15008"),
            waypoint: at("127.0.71.2:15008"),
            readiness: at("127.0.71.2:15021"),
            metrics: at("127.0.71.2:15020"),
            envoy_admin: at("127.0.71.2:15000"),
            service: at("127.0.71.10:80"),
            services,
            dir,
        }
    }

    pub fn certs(&self, namespace: &str, account: &str) -> PathBuf {
        self.path("certs").join(namespace).join(account)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn await_listener(&self, address: SocketAddr) {
        let deadline = std::time::SystemTime::now() + Duration::from_secs(60);
        while TcpStream::connect(address).is_err() {
            assert!(std::time::SystemTime::now() < deadline, "nobody listens on {address}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Writes a file whole: whoever looks sees the old one or the new one.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let (partial, path) = (self.path("partial"), self.path(name));
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        std::fs::write(&partial, text).unwrap();
        std::fs::rename(partial, &path).unwrap();
        path
    }
}
