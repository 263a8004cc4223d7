use super::*;
use crate::{
    cert::Keeper,
    proto::ca::{
        IstioCertificateResponse,
        istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
    },
    transport::{
        CertSource as _,
        grpc::{
            Credentials, Roots, Token,
            fixture::{Running, ServerCa},
        },
    },
};
use http::{HeaderName, HeaderValue};
use rcgen::{BasicConstraints, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa, PKCS_ECDSA_P256_SHA256};
use std::time::SystemTime;
use time::OffsetDateTime;
use tokio::{runtime::Handle, sync::Notify, time::timeout};
use tonic::{Response, metadata::MetadataMap};
use x509_parser::{
    certification_request::X509CertificationRequest, cri_attributes::ParsedCriAttribute, extensions::ParsedExtension, pem::parse_x509_pem,
};

const WEB: &str = "spiffe://cluster.local/ns/app/sa/web";
const DB: &str = "spiffe://cluster.local/ns/app/sa/db";
const TTL: Duration = Duration::from_secs(3600);
/// More than anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);
const TOKEN: &str = "t0ken";

fn web() -> Identity {
    WEB.parse().unwrap()
}

/// Signs the certificates of workloads: a root, and an intermediate below it.
struct Signer {
    root: rcgen::Issuer<'static, KeyPair>,
    root_pem: String,
    intermediate: rcgen::Issuer<'static, KeyPair>,
    intermediate_pem: String,
}

fn authority(name: &str) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params, KeyPair::generate().unwrap())
}

fn leaf(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - time::Duration::MINUTE, now + TTL);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

impl Signer {
    fn new() -> Self {
        let ((params, key), (params_below, key_below)) = (authority("root"), authority("intermediate"));
        let root_pem = params.self_signed(&key).unwrap().pem();
        let root = rcgen::Issuer::new(params, key);
        let intermediate_pem = params_below.signed_by(&key_below, &root).unwrap().pem();
        Self { root, root_pem, intermediate: rcgen::Issuer::new(params_below, key_below), intermediate_pem }
    }

    /// A leaf for the key of a request, whatever that asked for.
    fn sign(&self, csr: &str, params: &CertificateParams) -> String {
        // This verifies the signature of the request as well.
        let csr = CertificateSigningRequestParams::from_pem(csr).unwrap();
        params.signed_by(&csr.public_key, &self.root).unwrap().pem()
    }

    fn sign_below(&self, csr: &str, params: &CertificateParams) -> String {
        let csr = CertificateSigningRequestParams::from_pem(csr).unwrap();
        params.signed_by(&csr.public_key, &self.intermediate).unwrap().pem()
    }
}

type Answer = Box<dyn Fn(&Signer, &str) -> Result<Vec<String>, Status> + Send + Sync>;

/// Istio's certificate service, which answers as a test says.
struct Service {
    signer: Signer,
    answer: Mutex<Answer>,
    asked: Mutex<Vec<(MetadataMap, IstioCertificateRequest)>>,
    /// Told of each request that gets no answer.
    unanswered: Notify,
    is_silent: Mutex<bool>,
}

impl Service {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            signer: Signer::new(),
            answer: Mutex::new(Box::new(what_was_asked)),
            asked: Mutex::default(),
            unanswered: Notify::new(),
            is_silent: Mutex::new(false),
        })
    }

    fn answers(&self, answer: impl Fn(&Signer, &str) -> Result<Vec<String>, Status> + Send + Sync + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    fn asked(&self) -> Vec<(MetadataMap, IstioCertificateRequest)> {
        self.asked.lock().unwrap().clone()
    }
}

/// A certificate of the first URI in the request.
fn what_was_asked(signer: &Signer, csr: &str) -> Result<Vec<String>, Status> {
    let params = CertificateSigningRequestParams::from_pem(csr).unwrap().params;
    let SanType::URI(uri) = &params.subject_alt_names[0] else { panic!("{params:?}") };
    Ok(vec![signer.sign(csr, &leaf(&[uri.as_str()])), signer.root_pem.clone()])
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(&self, request: Request<IstioCertificateRequest>) -> Result<Response<IstioCertificateResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let csr = request.csr.clone();
        self.asked.lock().unwrap().push((metadata, request));
        let is_silent = *self.is_silent.lock().unwrap();
        if is_silent {
            self.unanswered.notify_one();
            std::future::pending::<()>().await;
        }
        let cert_chain = (self.answer.lock().unwrap())(&self.signer, &csr)?;
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// A service that runs, and its client.
struct Stand {
    service: Arc<Service>,
    tls: ServerCa,
    running: Running,
    ca: Arc<IstioCa>,
}

async fn run(service: &Arc<Service>, tls: &ServerCa) -> Running {
    Running::start(tls.server(&["localhost"]), IstioCertificateServiceServer::from_arc(service.clone())).await
}

fn config(running: &Running, roots: Roots, impersonate: bool) -> CaConfig {
    let credentials = Credentials {
        token: Some(Token::Literal(TOKEN.into())),
        cluster: "Kubernetes".into(),
        headers: vec![(HeaderName::from_static("x-tenant"), HeaderValue::from_static("a"))],
    };
    let address = format!("https://localhost:{}", running.address.port()).parse().unwrap();
    CaConfig { server: Server { address, roots, alternative_name: None, credentials }, ttl: TTL, impersonate }
}

impl Stand {
    async fn new() -> Self {
        let (service, tls) = (Service::new(), ServerCa::new());
        let running = run(&service, &tls).await;
        let ca = Arc::new(IstioCa::new(config(&running, Roots::Pem(tls.pem.clone()), true)));
        Self { service, tls, running, ca }
    }

    async fn issue(&self, identity: &str) -> Result<Arc<WorkloadCert>, CertError> {
        timeout(PATIENCE, self.ca.issue(&identity.parse().unwrap())).await.expect("an answer")
    }

    async fn refusal(&self) -> String {
        reason(&self.issue(WEB).await.expect_err("refused"))
    }
}

/// An error with its causes.
fn reason(error: &CertError) -> String {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[tokio::test]
async fn a_certificate_is_requested_as_istio_wants_it_and_used_as_it_comes() {
    let stand = Stand::new().await;
    let cert = stand.issue(WEB).await.unwrap();
    assert_eq!(cert.identity(), &web());
    cert.verify(SystemTime::now()).unwrap();
    assert_eq!((cert.chain().len(), cert.anchors().len()), (1, 1), "the root is not part of what peers are sent");
    let [(metadata, request)] = &stand.service.asked()[..] else { panic!("{:?}", stand.service.asked().len()) };
    for (name, value) in [("authorization", "Bearer t0ken"), ("clusterid", "Kubernetes"), ("x-tenant", "a")] {
        assert_eq!(metadata.get(name).unwrap(), value);
    }
    assert_eq!(request.validity_duration, 3600);
    let fields = &request.metadata.as_ref().unwrap().fields;
    assert_eq!(fields.iter().collect::<Vec<_>>(), [(&IMPERSONATED.to_owned(), &Kind::StringValue(WEB.into()).into())]);

    let (rest, pem) = parse_x509_pem(request.csr.as_bytes()).unwrap();
    assert!(rest.is_empty() && pem.label == "CERTIFICATE REQUEST", "{}", pem.label);
    let (rest, csr) = X509CertificationRequest::from_der(&pem.contents).unwrap();
    assert!(rest.is_empty());
    let info = &csr.certification_request_info;
    assert_eq!(info.subject.iter().count(), 0);
    let [attribute] = info.attributes() else { panic!("{:?}", info.attributes()) };
    let ParsedCriAttribute::ExtensionRequest(request) = attribute.parsed_attribute() else { panic!("{attribute:?}") };
    let [extension] = &request.extensions[..] else { panic!("{:?}", request.extensions) };
    let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { panic!("{extension:?}") };
    assert!(extension.critical);
    assert!(matches!(names.general_names[..], [GeneralName::URI(WEB)]), "{names:?}");
    // P-256, and SHA-256 in the signature, which reading it this way verifies.
    let parsed = CertificateSigningRequestParams::from_der(&pem.contents.clone().into()).unwrap();
    assert!(parsed.public_key.algorithm() == &PKCS_ECDSA_P256_SHA256);
    assert_eq!(csr.signature_algorithm.algorithm.to_id_string(), "1.2.840.10045.4.3.2", "ecdsa-with-SHA256");
}

#[tokio::test]
async fn each_certificate_has_a_key_of_its_own_over_one_connection() {
    let stand = Stand::new().await;
    let names: Vec<Identity> = (0..8).map(|n| format!("spiffe://cluster.local/ns/app/sa/w-{n}").parse().unwrap()).collect();
    let certs = futures_util::future::join_all(names.iter().map(|name| stand.ca.issue(name))).await;
    for (cert, name) in certs.iter().zip(&names) {
        assert_eq!(cert.as_ref().unwrap().identity(), name);
    }
    stand.issue(WEB).await.unwrap();
    stand.issue(WEB).await.unwrap();
    let mut requests: Vec<_> = stand.service.asked().into_iter().map(|(_, request)| request.csr).collect();
    requests.sort();
    requests.dedup();
    assert_eq!((requests.len(), stand.running.connections()), (10, 1));
}

#[tokio::test]
async fn in_dedicated_mode_nobody_is_named_and_the_answer_must_be_ours_all_the_same() {
    let (service, tls) = (Service::new(), ServerCa::new());
    let running = run(&service, &tls).await;
    let ca = Arc::new(IstioCa::new(config(&running, Roots::Pem(tls.pem.clone()), false)));
    let stand = Stand { service, tls, running, ca };
    stand.issue(WEB).await.unwrap();
    assert_eq!(stand.service.asked()[0].1.metadata, None);
    stand.service.answers(|signer, csr| Ok(vec![signer.sign(csr, &leaf(&[DB])), signer.root_pem.clone()]));
    let refusal = stand.refusal().await;
    assert!(refusal.contains(DB) && refusal.contains(WEB), "{refusal}");
}

#[tokio::test]
async fn the_token_is_the_one_of_the_moment() {
    let (service, tls) = (Service::new(), ServerCa::new());
    let running = run(&service, &tls).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("istio-token");
    let mut config = config(&running, Roots::Pem(tls.pem.clone()), true);
    config.server.credentials.token = Some(Token::File(path.clone()));
    let stand = Stand { service, tls, running, ca: Arc::new(IstioCa::new(config)) };
    let missing = stand.refusal().await;
    assert!(missing.contains("istio-token") && stand.service.asked().is_empty(), "{missing}");
    for token in ["first", "second"] {
        std::fs::write(&path, token).unwrap();
        stand.issue(WEB).await.unwrap();
        let (metadata, _) = stand.service.asked().pop().unwrap();
        assert_eq!(metadata.get("authorization").unwrap(), &format!("Bearer {token}"));
    }
}

#[tokio::test]
async fn chains_and_roots_come_in_more_than_one_form() {
    let stand = Stand::new().await;
    let other = Signer::new().root_pem;
    let rows: [(&str, Answer, (usize, usize)); 4] = [
        (
            "an intermediate",
            Box::new(|s, csr| Ok(vec![s.sign_below(csr, &leaf(&[WEB])), s.intermediate_pem.clone(), s.root_pem.clone()])),
            (2, 1),
        ),
        (
            "an intermediate in the element of the leaf",
            Box::new(|s, csr| Ok(vec![s.sign_below(csr, &leaf(&[WEB])) + &s.intermediate_pem, s.root_pem.clone()])),
            (2, 1),
        ),
        (
            "roots behind each other",
            Box::new(move |s, csr| Ok(vec![s.sign(csr, &leaf(&[WEB])), format!("{other}\n{}", s.root_pem)])),
            (1, 2),
        ),
        ("further identities", Box::new(|s, csr| Ok(vec![s.sign(csr, &leaf(&[WEB, DB])), s.root_pem.clone()])), (1, 1)),
    ];
    for (row, answer, expected) in rows {
        *stand.service.answer.lock().unwrap() = answer;
        let cert = stand.issue(WEB).await.unwrap_or_else(|error| panic!("{row}: {}", reason(&error)));
        cert.verify(SystemTime::now()).unwrap();
        assert_eq!((cert.chain().len(), cert.anchors().len()), expected, "{row}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_what_was_asked_for_is_refused_and_the_reason_told() {
    let stand = Stand::new().await;
    let https = "https://web.example";
    let rows: Vec<(Answer, &str)> = vec![
        (Box::new(|_, _| Ok(vec![])), "the answer of the CA is empty"),
        (Box::new(|s, csr| Ok(vec![s.sign(csr, &leaf(&[WEB]))])), "holds no root"),
        (Box::new(|s, csr| Ok(vec![s.sign(csr, &leaf(&[WEB])), String::new()])), "part 2 of 2"),
        (Box::new(|s, _| Ok(vec!["no PEM".into(), s.root_pem.clone()])), "part 1 of 2"),
        (Box::new(|s, csr| Ok(vec![s.sign(csr, &leaf(&[WEB])), "no PEM".into(), s.root_pem.clone()])), "part 2 of 3"),
        (Box::new(|s, csr| Ok(vec![s.sign(csr, &leaf(&[WEB])), "-----BEGIN CERTIFICATE-----\n!".into()])), "part 2 of 2"),
        (
            Box::new(|s, _| Ok(vec!["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----".into(), s.root_pem.clone()])),
            "a certificate of the certificate chain is not valid x509",
        ),
        (
            Box::new(|s, csr| Ok(vec![s.sign(csr, &leaf(&[WEB])), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----".into()])),
            "a certificate of the root bundle is not valid x509",
        ),
        (Box::new(|s, csr| Ok(vec![s.sign(csr, &leaf(&[DB])), s.root_pem.clone()])), DB),
        (Box::new(|s, csr| Ok(vec![s.sign(csr, &leaf(&[DB, WEB])), s.root_pem.clone()])), DB),
        (Box::new(move |s, csr| Ok(vec![s.sign(csr, &leaf(&[https, WEB])), s.root_pem.clone()])), https),
        (Box::new(|s, csr| Ok(vec![s.sign(csr, &leaf(&[])), s.root_pem.clone()])), "no spiffe identity"),
        (
            Box::new(|s, _| {
                let stolen = leaf(&[WEB]).signed_by(&KeyPair::generate().unwrap(), &s.root).unwrap();
                Ok(vec![stolen.pem(), s.root_pem.clone()])
            }),
            "does not belong to the leaf",
        ),
    ];
    for (row, (answer, expected)) in rows.into_iter().enumerate() {
        *stand.service.answer.lock().unwrap() = answer;
        let refusal = stand.refusal().await;
        assert!(refusal.contains(expected), "row {row}: {refusal}");
    }
    stand.service.answers(what_was_asked);
    stand.issue(WEB).await.unwrap();
    assert_eq!(stand.running.connections(), 1, "the connection is not at fault");
}

/// The keeper looks at what the issuer cannot know alone.
#[tokio::test]
async fn a_chain_that_is_not_valid_is_not_used() {
    let stand = Stand::new().await;
    let keeper = || Keeper::new(stand.ca.clone(), Handle::current());
    stand.service.answers(|signer, csr| {
        let mut params = leaf(&[WEB]);
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
        Ok(vec![signer.sign(csr, &params), signer.root_pem.clone()])
    });
    assert!(matches!(keeper().fetch(&web()).await, Err(CertError::Expired { .. })));
    let foreign = Signer::new().root_pem;
    stand.service.answers(move |signer, csr| Ok(vec![signer.sign(csr, &leaf(&[WEB])), foreign.clone()]));
    assert!(matches!(keeper().fetch(&web()).await, Err(CertError::Chain { .. })));
    stand.service.answers(what_was_asked);
    keeper().fetch(&web()).await.unwrap();
}

#[tokio::test]
async fn what_the_ca_says_is_passed_on_without_our_secrets() {
    let stand = Stand::new().await;
    for (status, expected) in [
        (Status::unauthenticated("the token has expired"), "Unauthenticated: the token has expired"),
        (Status::permission_denied("not allowed to impersonate"), "PermissionDenied: not allowed to impersonate"),
        (Status::resource_exhausted("slow down"), "ResourceExhausted: slow down"),
        (Status::unavailable("signing is off"), "Unavailable: signing is off"),
    ] {
        stand.service.answers(move |_, _| Err(status.clone()));
        let error = stand.issue(WEB).await.unwrap_err();
        let text = reason(&error);
        assert!(text.contains(expected) && !format!("{text}{error:?}").contains(TOKEN), "{text}");
    }
    let shown = format!("{:?}", stand.ca);
    assert!(shown.contains("localhost") && !shown.contains(TOKEN) && !shown.contains("CERTIFICATE"), "{shown}");
}

#[tokio::test]
async fn an_answer_that_is_far_too_long_is_refused() {
    let stand = Stand::new().await;
    stand.service.answers(|_, _| Ok(vec!["x".repeat(MAX_ANSWER + 1)]));
    let refusal = stand.refusal().await;
    assert!(refusal.contains("OutOfRange"), "{refusal}");
}

#[tokio::test]
async fn a_ca_that_was_away_is_found_again() {
    let Stand { service, tls, running, ca } = Stand::new().await;
    ca.issue(&web()).await.unwrap();
    let address = running.address;
    drop(running);
    let gone = timeout(PATIENCE, async {
        loop {
            match ca.issue(&web()).await {
                // The news that the connection is gone may be on its way.
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => return reason(&error),
            }
        }
    });
    let gone = gone.await.expect("it is gone");
    assert!(gone.contains("CA"), "{gone}");
    let refused = reason(&ca.issue(&web()).await.unwrap_err());
    assert!(refused.contains("localhost") && refused.contains("refused"), "{refused}");
    let _again = Running::start_at(address, tls.server(&["localhost"]), IstioCertificateServiceServer::from_arc(service)).await;
    ca.issue(&web()).await.unwrap();
}

#[tokio::test]
async fn another_file_of_roots_means_another_connection() {
    let (service, tls, other) = (Service::new(), ServerCa::new(), ServerCa::new());
    let running = run(&service, &tls).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root-cert.pem");
    std::fs::write(&path, &other.pem).unwrap();
    let ca = Arc::new(IstioCa::new(config(&running, Roots::File(path.clone()), true)));
    let stand = Stand { service, tls, running, ca };
    let refusal = stand.refusal().await;
    assert!(refusal.contains("UnknownIssuer"), "{refusal}");
    std::fs::write(&path, &stand.tls.pem).unwrap();
    stand.issue(WEB).await.unwrap();
    std::fs::write(&path, stand.tls.pem.clone() + &other.pem).unwrap();
    stand.issue(WEB).await.unwrap();
    stand.issue(WEB).await.unwrap();
    assert_eq!(stand.running.connections(), 2);
    std::fs::write(&path, &other.pem).unwrap();
    let refusal = stand.refusal().await;
    assert!(refusal.contains("UnknownIssuer"), "an open connection does not outlive the trust in it: {refusal}");
}

#[tokio::test]
async fn a_ca_that_never_answers_has_failed_after_a_while() {
    let stand = Stand::new().await;
    stand.issue(WEB).await.unwrap();
    *stand.service.is_silent.lock().unwrap() = true;
    let identity = web();
    let mut asking = stand.ca.issue(&identity);
    tokio::select! {
        answered = &mut asking => panic!("{answered:?}"),
        asked = timeout(PATIENCE, stand.service.unanswered.notified()) => asked.expect("asked"),
    }
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    let error = reason(&asking.await.unwrap_err());
    assert!(error.contains("Timeout expired"), "{error}");
    assert!((CALL..CALL + Duration::from_secs(1)).contains(&started.elapsed()), "{:?}", started.elapsed());
    tokio::time::resume();
    *stand.service.is_silent.lock().unwrap() = false;
    stand.issue(WEB).await.unwrap();
    assert_eq!(stand.running.connections(), 2, "it is asked again by another way");
}
