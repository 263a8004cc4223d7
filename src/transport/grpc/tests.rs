use super::{
    fixture::{Running, ServerCa},
    *,
};
use http::Response;
use std::convert::Infallible;

const NAMES: [&str; 1] = ["localhost"];

/// The host of the address, the names of the certificate, our roots, the alternative name, and with
/// what words it is refused.
type Row<'a> = (&'a str, &'a [&'a str], Roots, Option<&'a str>, Option<&'a str>);

/// A server that never gets to answer anything.
async fn start(ca: &ServerCa, names: &[&str]) -> Running {
    let service = tower::service_fn(|_| async { Ok::<_, Infallible>(Response::new(tonic::body::Body::empty())) });
    Running::start(ca.server(names), service).await
}

fn server(host: &str, running: &Running, roots: Roots) -> Server {
    let address = format!("https://{host}:{}", running.address.port()).parse().unwrap();
    Server { address, roots, alternative_name: None, credentials: Credentials::default() }
}

/// An error with its causes.
fn reason(error: &GrpcError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |error| (*error).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[tokio::test]
async fn a_server_is_accepted_by_its_names_and_roots_only() {
    let (ca, other) = (ServerCa::new(), ServerCa::new());
    let pem = |ca: &ServerCa| Roots::Pem(ca.pem.clone());
    let both = Roots::Pem(format!("{}{}", other.pem, ca.pem));
    let rows: [Row<'_>; 9] = [
        ("localhost", &NAMES, pem(&ca), None, None),
        ("localhost", &NAMES, both, None, None),
        ("127.0.0.1", &["127.0.0.1"], pem(&ca), None, None),
        ("localhost", &["istiod.istio-system.svc"], pem(&ca), Some("istiod.istio-system.svc"), None),
        ("localhost", &NAMES, pem(&ca), Some("istiod.istio-system.svc"), None),
        ("localhost", &["istiod.istio-system.svc"], pem(&ca), None, Some("not valid for name")),
        ("localhost", &["elsewhere"], pem(&ca), Some("istiod.istio-system.svc"), Some("not valid for name")),
        ("127.0.0.1", &NAMES, pem(&ca), None, Some("not valid for name")),
        ("localhost", &NAMES, pem(&other), Some("localhost"), Some("UnknownIssuer")),
    ];
    for (row, (host, names, roots, alternative, refused)) in rows.into_iter().enumerate() {
        let running = start(&ca, names).await;
        let mut server = server(host, &running, roots);
        server.alternative_name = alternative.map(|name| name.try_into().unwrap());
        match (server.connect().await, refused) {
            (Ok(_), None) => {}
            (Err(error), Some(refused)) => {
                let text = reason(&error);
                assert!(text.contains(host) && text.contains(refused), "row {row}: {text}");
                assert_eq!(running.connections(), 0, "row {row}");
            }
            (connected, _) => panic!("row {row}: {connected:?}"),
        }
    }
}

#[tokio::test]
async fn a_new_file_of_roots_holds_from_the_next_connect_on() {
    let (old, new) = (ServerCa::new(), ServerCa::new());
    let running = start(&new, &NAMES).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root-cert.pem");
    let server = server("localhost", &running, Roots::File(path.clone()));

    let missing = server.connect().await.unwrap_err();
    assert!(matches!(&missing, GrpcError::File(file, _) if *file == path) && missing.to_string().contains("root-cert.pem"), "{missing}");
    std::fs::write(&path, &old.pem).unwrap();
    assert!(matches!(server.connect().await, Err(GrpcError::Connect(..))));
    std::fs::write(&path, &new.pem).unwrap();
    server.connect().await.unwrap();
    std::fs::write(&path, "").unwrap();
    assert!(matches!(server.connect().await, Err(GrpcError::Roots(_))), "an empty file is not everybody");
    std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    assert!(matches!(server.connect().await, Err(GrpcError::Roots(_))));
}

#[tokio::test]
async fn an_address_that_is_none_is_named() {
    let ca = ServerCa::new();
    let server = |address: &'static str| Server {
        address: Uri::from_static(address),
        roots: Roots::Pem(ca.pem.clone()),
        alternative_name: None,
        credentials: Credentials::default(),
    };
    assert!(matches!(server("/only/a/path").connect().await, Err(GrpcError::Address(_))));
    assert!(matches!(server("https://in_v..alid:1").connect().await, Err(GrpcError::Name(name, _)) if name == "in_v..alid"));
    // Nobody listens at port 1.
    let refused = reason(&server("https://127.0.0.1:1").connect().await.unwrap_err());
    assert!(refused.contains("127.0.0.1:1") && refused.contains("refused"), "{refused}");
}

#[tokio::test]
async fn each_call_says_who_we_are_now() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("istio-token");
    let header = |name: &'static str, value: &'static str| (HeaderName::from_static(name), HeaderValue::from_static(value));
    let credentials =
        |token| Credentials { token, cluster: "Kubernetes".into(), headers: vec![header("x-tenant", "a"), header("x-b", "c")] };
    let texts = |metadata: &MetadataMap| {
        ["authorization", "clusterid", "x-tenant", "x-b"].map(|name| metadata.get(name).map(|value| value.to_str().unwrap().to_owned()))
    };
    let told = |authorization: Option<&str>, cluster: Option<&str>| {
        [authorization, cluster, Some("a"), Some("c")].map(|text| text.map(ToOwned::to_owned))
    };

    let literal = credentials(Some(Token::Literal(" s3cret\n".into()))).metadata().await.unwrap();
    assert_eq!(texts(&literal), told(Some("Bearer s3cret"), Some("Kubernetes")));
    assert!(!format!("{literal:?}").contains("s3cret"), "{literal:?}");
    assert_eq!(texts(&credentials(None).metadata().await.unwrap()), told(None, None), "nobody in particular");

    let file = credentials(Some(Token::File(path.clone())));
    let missing = file.metadata().await.unwrap_err();
    assert!(matches!(&missing, GrpcError::File(named, _) if *named == path), "{missing}");
    for token in ["first", "second"] {
        std::fs::write(&path, format!("{token}\r\n")).unwrap();
        let expected = format!("Bearer {token}");
        assert_eq!(texts(&file.metadata().await.unwrap()), told(Some(&expected), Some("Kubernetes")));
    }
    for unusable in ["two\nlines", "", " \n"] {
        std::fs::write(&path, unusable).unwrap();
        let error = file.metadata().await.unwrap_err();
        assert!(matches!(error, GrpcError::Token), "{unusable:?}: {error}");
    }
}

#[test]
fn nothing_secret_is_shown() {
    let ca = ServerCa::new();
    let credentials = Credentials {
        token: Some(Token::Literal("s3cret".into())),
        cluster: "Kubernetes".into(),
        headers: vec![(HeaderName::from_static("x-api-key"), HeaderValue::from_static("hidden"))],
    };
    let address = Uri::from_static("https://istiod:15012");
    let server = Server { address, roots: Roots::Pem(ca.pem.clone()), alternative_name: None, credentials };
    let text = format!("{server:?}");
    assert!(text.contains("istiod") && text.contains("Kubernetes") && text.contains("x-api-key"), "{text}");
    assert!(!text.contains("s3cret") && !text.contains("hidden") && !text.contains("CERTIFICATE"), "{text}");
}
