//! The certificate service.

use super::*;
use crate::transport::WorkloadCert;
use rcgen::{CertificateParams, KeyPair, SanType};

/// A request for a certificate, with its key.
struct Csr {
    pem: String,
    key: KeyPair,
}

fn csr(names: &[&str]) -> Csr {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
    Csr { pem: params.serialize_request(&key).unwrap().pem().unwrap(), key }
}

const ID: &str = "spiffe://cluster.local/ns/app/sa/a";
const OTHER: &str = "spiffe://cluster.local/ns/app/sa/b";

struct Asking {
    client: IstioCertificateServiceClient<Channel>,
}

impl Asking {
    async fn new(plane: &ControlPlane) -> Self {
        Self { client: IstioCertificateServiceClient::new(channel(plane).await) }
    }

    async fn ask(&mut self, csr: &Csr, impersonated: Option<&str>, seconds: i64) -> Result<Vec<String>, Status> {
        let text = |text: &str| prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text.into())) };
        let metadata = impersonated.map(|id| prost_types::Struct { fields: [("ImpersonatedIdentity".to_owned(), text(id))].into() });
        let request = IstioCertificateRequest { csr: csr.pem.clone(), validity_duration: seconds, metadata };
        soon(self.client.create_certificate(with_token(request, TOKEN))).await.map(|answer| answer.into_inner().cert_chain)
    }

    async fn cert(&mut self, csr: &Csr) -> WorkloadCert {
        let chain = self.ask(csr, None, 3600).await.unwrap();
        read(&chain, csr)
    }
}

/// The answer as a proxy reads it.
fn read(chain: &[String], csr: &Csr) -> WorkloadCert {
    let (roots, chain) = chain.split_last().unwrap();
    WorkloadCert::from_pem(chain.concat().as_bytes(), csr.key.serialize_pem().as_bytes(), roots.as_bytes()).unwrap()
}

#[tokio::test]
async fn a_request_becomes_a_certificate_of_the_mesh() {
    for (intermediate, length) in [(false, 2), (true, 3)] {
        let options = Options { intermediate, ..Options::new("127.0.0.1:0".parse().unwrap(), TOKEN) };
        let plane = ControlPlane::start(options).await.unwrap();
        let csr = csr(&[ID]);
        let chain = Asking::new(&plane).await.ask(&csr, None, 3600).await.unwrap();
        assert_eq!((chain.len(), &chain[length - 1]), (length, &plane.mesh_roots()));
        let cert = read(&chain, &csr);
        assert_eq!(cert.identity().as_str(), ID);
        let seen = plane.observed().certificates.remove(0);
        assert_eq!((seen.csr, seen.validity, seen.token.as_str()), (csr.pem, Duration::from_secs(3600), TOKEN));
        assert_eq!((seen.identity.unwrap().as_str(), seen.impersonated), (ID, None));
    }
}

#[tokio::test]
async fn others_are_spoken_for_only_with_the_right_to() {
    let plane = plane().await;
    let (mut asking, csr) = (Asking::new(&plane).await, csr(&[OTHER]));
    let chain = asking.ask(&csr, Some(OTHER), 60).await.unwrap();
    assert_eq!(read(&chain, &csr).identity().as_str(), OTHER);
    plane.set_tokens(vec![Token { text: TOKEN.into(), may_impersonate: false }]);
    assert_eq!(asking.ask(&csr, Some(OTHER), 60).await.unwrap_err().code(), Code::Unauthenticated);
    asking.ask(&csr, None, 60).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_signed_is_refused() {
    let plane = plane().await;
    let mut asking = Asking::new(&plane).await;
    let garbage = Csr { pem: "nothing".into(), key: KeyPair::generate().unwrap() };
    for (what, csr, impersonated) in [
        ("no request", garbage, None),
        ("no name", csr(&[]), None),
        ("two names", csr(&[ID, OTHER]), None),
        ("not a workload", csr(&["https://example.com"]), None),
        ("another trust domain", csr(&["spiffe://elsewhere/ns/app/sa/a"]), None),
        ("nobody to speak for", csr(&[ID]), Some("me")),
    ] {
        assert_eq!(asking.ask(&csr, impersonated, 60).await.map_err(|s| s.code()), Err(Code::InvalidArgument), "{what}");
    }
}

#[tokio::test]
async fn a_life_ends_when_it_should_at_most() {
    let options = Options { max_ttl: Duration::from_secs(100), ..Options::new("127.0.0.1:0".parse().unwrap(), TOKEN) };
    let plane = ControlPlane::start(options).await.unwrap();
    for (asked, got) in [(60, 60), (100, 100), (86400, 100)] {
        let csr = csr(&[ID]);
        let chain = Asking::new(&plane).await.ask(&csr, None, asked).await.unwrap();
        let left = read(&chain, &csr).not_after().duration_since(std::time::SystemTime::now()).unwrap().as_secs();
        assert!((got - 30..=got).contains(&left), "{asked} asked, {left} left");
    }
}

#[tokio::test]
async fn roots_change_in_three_steps() {
    let plane = plane().await;
    let (mut asking, csr) = (Asking::new(&plane).await, csr(&[ID]));
    let mut roots = vec![plane.mesh_roots()];
    let mut counts = vec![asking.cert(&csr).await.anchors().len()];
    for _ in 0..3 {
        plane.rotate().unwrap();
        roots.push(plane.mesh_roots());
        counts.push(asking.cert(&csr).await.anchors().len());
    }
    assert_eq!(counts, [1, 2, 2, 1]);
    assert_eq!(roots[1], roots[2]);
    assert!(roots[1].starts_with(&roots[0]) && roots[1].ends_with(&roots[3]) && roots[0] != roots[3]);
}

#[tokio::test]
async fn answers_go_wrong_as_they_are_told_to() {
    let plane = plane().await;
    let (mut asking, csr) = (Asking::new(&plane).await, csr(&[ID]));
    plane.faults().certificates(Certificates::Empty);
    assert_eq!(asking.ask(&csr, None, 60).await.unwrap(), Vec::<String>::new());
    plane.faults().certificates(Certificates::LeafOnly);
    assert_eq!(asking.ask(&csr, None, 60).await.unwrap().len(), 1);
    plane.faults().certificates(Certificates::For(OTHER.parse().unwrap()));
    let chain = asking.ask(&csr, None, 60).await.unwrap();
    assert_eq!(read(&chain, &csr).identity().as_str(), OTHER);
    plane.faults().certificates(Certificates::Refuse(Code::Unavailable, "down".into()));
    assert_eq!(asking.ask(&csr, None, 60).await.unwrap_err().code(), Code::Unavailable);
    plane.faults().certificates(Certificates::Hold);
    let held = async { asking.ask(&csr, None, 60).await.unwrap() };
    let release = async {
        plane.wait_for(|o| o.certificates.len() == 5).await;
        plane.faults().certificates(Certificates::Sign);
    };
    assert_eq!(tokio::join!(held, release).0.len(), 2);
}
