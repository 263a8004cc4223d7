//! Lists against chains of made-up authorities, in files that change, and in handshakes.

mod authority;
mod chains;
mod files;
mod handshakes;

use super::*;
use crate::telemetry::{MetricsFormat, MetricsHandle};
use authority::{Authority, Leaf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("took too long: {what}"))
}

/// A directory with a file of lists.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(content: impl AsRef<[u8]>) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        place.write(content);
        place
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("crl.pem")
    }

    fn write(&self, content: impl AsRef<[u8]>) {
        fs::write(self.file(), content).unwrap();
    }

    fn open(&self) -> Arc<Revocation> {
        Revocation::open(self.file()).unwrap()
    }
}

/// What a test counts, apart from the process. All on this thread.
fn counted(test: impl Future<Output = ()>) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ((), metrics) = MetricsHandle::apart(|| runtime.block_on(test));
    let text = metrics.render(MetricsFormat::Prometheus);
    text.lines().filter(|line| line.contains("_crl_") && !line.starts_with('#')).map(str::to_owned).collect()
}
