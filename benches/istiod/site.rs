//! The place a run happens in: addresses, certificates, files.

use cairn::{cert::DevCa, model::Identity};
use std::{
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

#[derive(Debug, Clone)]
pub struct Site {
    pub workload: SocketAddr,
    /// Where the proxy is, of either mode.
    pub waypoint: SocketAddr,
    pub readiness: SocketAddr,
    pub metrics: SocketAddr,
    /// What clients address.
    pub service: SocketAddr,
    dir: Arc<tempfile::TempDir>,
}

impl Site {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ids = ["waypoint", "workload", "client"].map(|account| Identity::new("cluster.local", "bench", account).unwrap());
        DevCa::write_directory(&dir.path().join("certs"), "cluster.local", &ids, Duration::from_secs(86_400)).unwrap();
        Self {
            workload: at("127.0.72.3:15008"),
            waypoint: at("127.0.72.2:15008"),
            readiness: at("127.0.72.2:15021"),
            metrics: at("127.0.72.2:15020"),
            service: at("127.0.72.10:80"),
            dir: Arc::new(dir),
        }
    }

    /// The same with another proxy.
    pub fn beside(&self) -> Self {
        let (waypoint, readiness, metrics) = (at("127.0.72.4:15008"), at("127.0.72.4:15021"), at("127.0.72.4:15020"));
        Self { waypoint, readiness, metrics, ..self.clone() }
    }

    /// The same with something else that clients address.
    pub fn towards(&self, service: SocketAddr) -> Self {
        Self { service, ..self.clone() }
    }

    pub fn certs(&self, namespace: &str, account: &str) -> PathBuf {
        self.path("certs").join(namespace).join(account)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn await_listener(&self, address: SocketAddr) {
        let deadline = SystemTime::now() + Duration::from_secs(60);
        while TcpStream::connect(address).is_err() {
            assert!(SystemTime::now() < deadline, "nobody listens on {address}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
