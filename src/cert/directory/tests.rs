use super::*;
use crate::{
    cert::{CertState, layout::ROOTS},
    transport::CertSource,
};
use std::fs;
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const PATIENCE: Duration = Duration::from_secs(20);

fn id(service_account: &str) -> Identity {
    Identity::new("td", "app", service_account).unwrap()
}

/// What `cairn certs` writes for two workloads.
fn written() -> (TempDir, DevCa) {
    let out = tempfile::tempdir().unwrap();
    let ca = DevCa::write_directory(out.path(), "td", &[id("web"), id("db")], HOUR).unwrap();
    (out, ca)
}

fn open(out: &Path) -> Result<Keeper, DirectoryError> {
    open_directory(out, Duration::from_millis(5), DAY, Handle::current())
}

#[tokio::test]
async fn a_ca_signs_for_any_identity_of_its_trust_domain() {
    let (out, ca) = written();
    let keeper = open(out.path()).unwrap();
    let cert = keeper.fetch(&id("never-written")).await.unwrap();
    assert_eq!(cert.identity(), &id("never-written"));
    assert_eq!(cert.not_after().duration_since(cert.not_before()).unwrap(), DAY + Duration::from_secs(300), "as long as told");
    let of_ca = ca.issue(&id("web"), HOUR).unwrap();
    assert_eq!(fs::read_to_string(out.path().join(ROOTS)).unwrap(), of_ca.roots_pem);
    assert!(matches!(keeper.fetch(&Identity::new("elsewhere", "app", "web").unwrap()).await, Err(CertError::Unavailable(_))));
    let text = format!("{keeper:?}");
    assert!(text.contains("DevCa") && !text.contains("PRIVATE"), "{text}");
}

#[tokio::test]
async fn without_its_key_the_files_of_each_identity_are_used() {
    let (out, _) = written();
    fs::remove_file(out.path().join(CA_KEY)).unwrap();
    let keeper = open(out.path()).unwrap();
    for name in ["web", "db"] {
        assert_eq!(keeper.fetch(&id(name)).await.unwrap().identity(), &id(name));
    }
    for missing in [id("api"), Identity::new("td", "..", "web").unwrap(), Identity::new("elsewhere", "app", "web").unwrap()] {
        assert!(keeper.fetch(&missing).await.is_err(), "{missing}");
    }
    let states = keeper.list();
    let reason = states.iter().find_map(|status| match &status.state {
        CertState::Unavailable(reason) if status.identity == id("api") => Some(reason),
        CertState::Unavailable(_) | CertState::Available(_) | CertState::Initializing => None,
    });
    let path = out.path().join("app/api").join(CHAIN);
    assert!(reason.unwrap().contains(path.to_str().unwrap()), "{reason:?}");
}

#[tokio::test]
async fn a_directory_of_one_identity_serves_that_one() {
    let (out, _) = written();
    let keeper = open(&out.path().join("app/web")).unwrap();
    keeper.fetch(&id("web")).await.unwrap();
    assert!(matches!(keeper.fetch(&id("db")).await, Err(CertError::Unknown(asked)) if asked == id("db")));
}

#[tokio::test]
async fn files_that_are_replaced_are_followed() {
    let (out, _) = written();
    for (dir, other) in [(out.path().to_owned(), "db"), (out.path().join("app/web"), "web")] {
        let key = out.path().join(CA_KEY);
        let kept = fs::read(&key).unwrap();
        fs::remove_file(&key).unwrap();
        let keeper = open(&dir).unwrap();
        fs::write(&key, kept).unwrap();
        let first = keeper.fetch(&id("web")).await.unwrap();
        let (same, wanted) = (keeper.fetch(&id(other)).await.unwrap(), id(other));
        assert_eq!(same.identity(), &wanted);
        DevCa::write_directory(out.path(), "td", &[id("web")], HOUR).unwrap();
        tokio::time::timeout(PATIENCE, keeper.replaced(&first)).await.expect("the new files are seen");
        let second = keeper.fetch(&id("web")).await.unwrap();
        assert_ne!(first.serial(), second.serial());
    }
}

#[tokio::test]
async fn what_is_of_no_use_is_refused_with_its_path() {
    let (out, _) = written();
    let empty = tempfile::tempdir().unwrap();
    let fails = |dir: &Path, path: &Path| {
        let error = open(dir).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    };
    fails(empty.path(), empty.path());
    let missing = empty.path().join("missing");
    fails(&missing, &missing);
    fs::write(empty.path().join(CHAIN), "").unwrap();
    fails(empty.path(), empty.path());
    let key = out.path().join(CA_KEY);
    fs::write(&key, "no key").unwrap();
    fails(out.path(), &key);
}
