use super::*;
use crate::{
    cert::{DevCa, IssuedCert, MultiCertSource},
    runtime::drain,
    transport::tls,
};
use std::os::unix::fs::symlink;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

const HOUR: Duration = Duration::from_secs(3600);

fn id(service_account: &str) -> Identity {
    Identity::new("td", "app", service_account).unwrap()
}

fn ca() -> DevCa {
    DevCa::create("td", HOUR).unwrap()
}

fn write(dir: &Path, issued: &IssuedCert) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join(ROOTS), &issued.roots_pem).unwrap();
    fs::write(dir.join(KEY), &issued.key_pem).unwrap();
    fs::write(dir.join(CHAIN), &issued.chain_pem).unwrap();
}

/// A directory with a certificate of `web`, and its source.
fn opened(ca: &DevCa) -> (TempDir, Arc<FileCertSource>) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &ca.issue(&id("web"), HOUR).unwrap());
    let source = FileCertSource::open(dir.path()).unwrap();
    (dir, Arc::new(source))
}

async fn serial(source: &dyn CertSource) -> String {
    source.fetch(&id("web")).await.unwrap().serial().to_owned()
}

#[tokio::test]
async fn only_its_own_identity_is_served() {
    let (_dir, source) = opened(&ca());
    assert_eq!(source.identity(), &id("web"));
    source.fetch(&id("web")).await.unwrap();
    assert!(matches!(source.fetch(&id("db")).await, Err(CertError::Unknown(asked)) if asked == id("db")));
}

#[test]
fn errors_name_the_file() {
    let ca = ca();
    let (dir, _) = opened(&ca);
    let fails = |file: &str, content: Option<&str>| {
        let path = dir.path().join(file);
        let good = fs::read(&path).unwrap();
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let error = FileCertSource::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{file} {content:?}: {error}");
        fs::write(&path, good).unwrap();
    };
    for file in [CHAIN, KEY, ROOTS] {
        fails(file, None);
        fails(file, Some(""));
        fails(file, Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"));
    }
    fails(KEY, Some(&ca.issue(&id("web"), HOUR).unwrap().key_pem));
    FileCertSource::open(dir.path()).unwrap();
}

#[test]
fn roots_of_another_authority_do_not_make_a_set() {
    let (dir, _) = opened(&ca());
    fs::write(dir.path().join(ROOTS), ca().roots_pem()).unwrap();
    let error = FileCertSource::open(dir.path()).unwrap_err();
    assert!(matches!(error, FileCertError::Content { source: CertError::Chain { .. }, .. }), "{error:?}");
}

#[test]
fn roots_may_bear_the_name_istio_gives_them() {
    let (dir, _) = opened(&ca());
    fs::rename(dir.path().join(ROOTS), dir.path().join(ISTIO_ROOTS)).unwrap();
    FileCertSource::open(dir.path()).unwrap();
}

#[tokio::test]
async fn half_written_files_keep_the_old_certificate() {
    let ca = ca();
    let (dir, source) = opened(&ca);
    let old = serial(&*source).await;
    assert_eq!(source.reload().unwrap(), Reload::Unchanged);
    let next = ca.issue(&id("web"), HOUR).unwrap();
    let path = |file| dir.path().join(file);

    fs::write(path(KEY), &next.key_pem).unwrap();
    assert!(matches!(source.reload(), Err(FileCertError::Content { path: at, .. }) if at == path(KEY)));
    fs::write(path(CHAIN), &next.chain_pem[..200]).unwrap();
    assert!(matches!(source.reload(), Err(FileCertError::Content { path: at, .. }) if at == path(CHAIN)));
    fs::remove_file(path(CHAIN)).unwrap();
    assert!(matches!(source.reload(), Err(FileCertError::Read { path: at, .. }) if at == path(CHAIN)));
    write(dir.path(), &ca.issue(&id("db"), HOUR).unwrap());
    assert!(matches!(source.reload(), Err(FileCertError::Identity { .. })));
    write(dir.path(), &ca.issue(&id("web"), Duration::ZERO).unwrap());
    assert!(matches!(source.reload(), Err(FileCertError::Content { source: CertError::Expired { .. }, .. })));
    assert_eq!(serial(&*source).await, old);

    write(dir.path(), &next);
    assert_eq!(source.reload().unwrap(), Reload::Replaced);
    assert_ne!(serial(&*source).await, old);
    assert_eq!(source.reload().unwrap(), Reload::Unchanged);
}

#[tokio::test]
async fn a_kubernetes_volume_is_followed_and_open_streams_go_on() {
    let ca = ca();
    let volume = tempfile::tempdir().unwrap();
    let at = |name: &str| volume.path().join(name);
    write(&at("..1"), &ca.issue(&id("web"), HOUR).unwrap());
    symlink("..1", at("..data")).unwrap();
    for file in [CHAIN, KEY, ROOTS] {
        symlink(Path::new("..data").join(file), at(file)).unwrap();
    }
    let source = Arc::new(FileCertSource::open(volume.path()).unwrap());
    let (trigger, drain) = drain::new();
    let watching = tokio::spawn(Arc::clone(&source).watch(Duration::from_millis(1), drain));
    let mut current = source.subscribe();
    let first = source.fetch(&id("web")).await.unwrap();
    let handshake = async |client: &WorkloadCert, server: &WorkloadCert| {
        let (near, far) = duplex(1 << 16);
        let expected = [id("web")];
        let (client, server) = tokio::join!(tls::connect(near, client, &expected, None), tls::accept(far, server, None));
        (client.unwrap().0, server.unwrap().0)
    };
    let (mut client, mut server) = handshake(&first, &first).await;

    write(&at("..2"), &ca.issue(&id("web"), HOUR).unwrap());
    symlink("..2", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    current.changed().await.unwrap();
    let second = source.fetch(&id("web")).await.unwrap();
    assert_ne!(first.serial(), second.serial());

    let (new_client, _server) = handshake(&first, &second).await;
    assert_eq!(new_client.get_ref().1.peer_certificates().unwrap()[0], second.chain()[0]);
    client.write_all(b"x").await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');

    drop(trigger);
    watching.await.unwrap();
}

#[tokio::test]
async fn an_expired_certificate_is_not_handed_out() {
    let issued = ca().issue(&id("web"), Duration::ZERO).unwrap();
    let cert = WorkloadCert::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), issued.roots_pem.as_bytes()).unwrap();
    let source: MultiCertSource = [Arc::new(cert)].into_iter().collect();
    assert!(matches!(source.fetch(&id("web")).await, Err(CertError::Expired { .. })));
    assert!(matches!(source.fetch(&id("db")).await, Err(CertError::Unknown(_))));
}

#[tokio::test]
async fn a_tree_of_directories_serves_each_identity() {
    let out = tempfile::tempdir().unwrap();
    assert!(matches!(MultiCertSource::from_dir_tree(out.path()), Err(FileCertError::None { .. })));
    DevCa::write_directory(out.path(), "td", &[id("web"), id("db")], HOUR).unwrap();
    let source = MultiCertSource::from_dir_tree(out.path()).unwrap();
    assert_eq!(source.identities().cloned().collect::<Vec<_>>(), [id("db"), id("web")]);
    for name in ["web", "db"] {
        assert_eq!(source.fetch(&id(name)).await.unwrap().identity(), &id(name));
    }
    write(&out.path().join("app/copy"), &ca().issue(&id("web"), HOUR).unwrap());
    assert!(matches!(MultiCertSource::from_dir_tree(out.path()), Err(FileCertError::Twice { .. })));
}
