use super::*;
use crate::{
    cert::{DevCa, Keeper},
    transport::{CertSource as _, grpc::fixture::serve},
};
use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    stream::{BoxStream, unfold},
};
use http::Request;
use hyper::body::Incoming;
use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Ready, ready},
    time::SystemTime,
};
use tokio::{net::UnixListener, task::JoinSet};
use tonic::{Response, Status, server::ServerStreamingService};
use tonic_prost::ProstCodec;

const TTL: Duration = Duration::from_secs(3600);
/// More than anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, PartialEq, prost::Message)]
struct SvidRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<Svid>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    crl: Vec<Bytes>,
    #[prost(map = "string, bytes", tag = "3")]
    federated_bundles: HashMap<String, Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(bytes = "bytes", tag = "2")]
    x509_svid: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    x509_svid_key: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    bundle: Bytes,
}

fn id(name: &str) -> Identity {
    Identity::new("td", "app", name).unwrap()
}

fn svid(ca: &DevCa, name: &str, roots: &[&DevCa]) -> Svid {
    svid_for(ca, name, roots, TTL)
}

fn svid_for(ca: &DevCa, name: &str, roots: &[&DevCa], ttl: Duration) -> Svid {
    let (leaf, key) = ca.sign(&id(name), ttl).unwrap();
    let bundle: Vec<u8> = roots.iter().flat_map(|ca| ca.root().to_vec()).collect();
    Svid {
        spiffe_id: id(name).as_str().to_owned(),
        x509_svid: leaf.der().to_vec().into(),
        x509_svid_key: key.serialize_der().into(),
        bundle: bundle.into(),
    }
}

fn ca() -> DevCa {
    DevCa::create("td", TTL * 10).unwrap()
}

/// What an agent says to all who listen, from now on.
type Said = Result<Vec<Svid>, Status>;

#[derive(Clone)]
struct Fetch {
    said: watch::Receiver<Option<Said>>,
    calls: watch::Sender<usize>,
}

impl ServerStreamingService<SvidRequest> for Fetch {
    type Response = SvidResponse;
    type ResponseStream = BoxStream<'static, Result<SvidResponse, Status>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: tonic::Request<SvidRequest>) -> Self::Future {
        self.calls.send_modify(|calls| *calls += 1);
        let mut said = self.said.clone();
        said.mark_changed();
        let messages = unfold(said, |mut said| async {
            loop {
                said.changed().await.ok()?;
                let message = said.borrow_and_update().clone();
                if let Some(message) = message {
                    return Some((message.map(|svids| SvidResponse { svids, ..SvidResponse::default() }), said));
                }
            }
        });
        ready(Ok(Response::new(messages.boxed())))
    }
}

/// A Workload API on a socket.
struct Agent {
    said: watch::Sender<Option<Said>>,
    calls: watch::Sender<usize>,
    serving: Option<AbortOnDropHandle<()>>,
    dir: tempfile::TempDir,
}

impl Agent {
    fn new() -> Self {
        Self { said: watch::channel(None).0, calls: watch::channel(0).0, serving: None, dir: tempfile::tempdir().unwrap() }
    }

    fn running(said: Said) -> Self {
        let mut agent = Self::new();
        agent.says(said);
        agent.start();
        agent
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    fn says(&self, said: Said) {
        self.said.send_replace(Some(said));
    }

    fn start(&mut self) {
        let (listener, fetch) =
            (UnixListener::bind(self.socket()).unwrap(), Fetch { said: self.said.subscribe(), calls: self.calls.clone() });
        let service = tower::service_fn(move |request: Request<Incoming>| {
            assert_eq!(request.uri().path(), "/SpiffeWorkloadAPI/FetchX509SVID");
            let (fetch, is_spiffe) = (fetch.clone(), request.headers().get("workload.spiffe.io").is_some_and(|value| value == "true"));
            async move {
                if !is_spiffe {
                    return Ok::<_, Infallible>(Status::invalid_argument("security header missing").into_http());
                }
                let mut grpc = tonic::server::Grpc::new(ProstCodec::<SvidResponse, SvidRequest>::default());
                Ok(grpc.server_streaming(fetch, request).await)
            }
        });
        self.serving = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream, service.clone()));
            }
        })));
    }

    fn stop(&mut self) {
        self.serving = None;
        std::fs::remove_file(self.socket()).unwrap();
    }

    fn source(&self) -> SpiffeSource {
        SpiffeSource::connect(&format!("unix://{}", self.socket().display()), &Handle::current()).unwrap()
    }

    fn keeper(&self) -> Keeper {
        Keeper::new(Arc::new(self.source()), Handle::current())
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

/// An error with its causes.
fn reason(error: &CertError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |error| (*error).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[tokio::test]
async fn each_gets_the_certificate_of_its_exact_name_with_the_bundle() {
    let (one, other) = (ca(), ca());
    let agent = Agent::running(Ok(vec![svid(&one, "web", &[&one, &other]), svid(&one, "webber", &[&one, &other])]));
    let source = agent.source();
    for name in ["webber", "web"] {
        let cert = soon(source.issue(&id(name))).await.unwrap();
        assert_eq!((cert.identity(), cert.anchors()), (&id(name), &[one.root().clone(), other.root().clone()][..]));
        cert.verify(SystemTime::now()).unwrap();
    }
    let unknown = reason(&soon(source.issue(&id("we"))).await.unwrap_err());
    for part in [id("we").as_str(), id("web").as_str(), id("webber").as_str()] {
        assert!(unknown.contains(part), "{unknown}");
    }
    let shown = format!("{source:?}");
    assert!(shown.contains(id("webber").as_str()) && shown.len() < 300, "{shown}");
}

#[tokio::test]
async fn a_socket_is_a_path_or_a_url_of_one() {
    let one = ca();
    let agent = Agent::running(Ok(vec![svid(&one, "web", &[&one])]));
    let path = agent.socket().display().to_string();
    for socket in [path.clone(), format!("unix://{path}"), format!("unix:{path}")] {
        let source = SpiffeSource::connect(&socket, &Handle::current()).unwrap();
        soon(source.issue(&id("web"))).await.unwrap_or_else(|error| panic!("{socket}: {}", reason(&error)));
    }
    for socket in ["", "unix://", "api.sock", "unix://run/api.sock", "tcp://127.0.0.1:8081"] {
        let refused = SpiffeSource::connect(socket, &Handle::current()).unwrap_err();
        assert!(matches!(&refused, SpiffeError::Socket(named) if named == socket), "{refused}");
    }
}

#[tokio::test]
async fn what_the_agent_sends_next_is_used_at_once() {
    let (old, new) = (ca(), ca());
    let agent = Agent::running(Ok(vec![svid(&old, "web", &[&old]), svid(&old, "db", &[&old])]));
    let keeper = agent.keeper();
    let (web, db) = (soon(keeper.fetch(&id("web"))).await.unwrap(), soon(keeper.fetch(&id("db"))).await.unwrap());

    let mut renewed = vec![svid(&new, "web", &[&old, &new]), svid(&old, "db", &[&old, &new])];
    agent.says(Ok(renewed.clone()));
    soon(keeper.replaced(&web)).await;
    soon(keeper.replaced(&db)).await;
    let (web, db) = (keeper.fetch(&id("web")).await.unwrap(), keeper.fetch(&id("db")).await.unwrap());
    assert_eq!((web.anchors().len(), db.anchors().len()), (2, 2));

    // Something new for one of them, the same once more for the other.
    renewed[1] = svid(&new, "db", &[&old, &new]);
    agent.says(Ok(renewed));
    soon(keeper.replaced(&db)).await;
    assert!(keeper.replaced(&web).now_or_never().is_none());
    assert!(Arc::ptr_eq(&keeper.fetch(&id("web")).await.unwrap(), &web));
}

#[tokio::test]
async fn an_agent_that_comes_later_is_found_and_the_reason_told_until_then() {
    let one = ca();
    let mut agent = Agent::new();
    let keeper = agent.keeper();
    let away = reason(&soon(keeper.fetch(&id("web"))).await.unwrap_err());
    assert!(away.contains("api.sock"), "{away}");
    agent.start();
    agent.says(Ok(vec![svid(&one, "web", &[&one])]));
    soon(async {
        // Callers are told at once that there is none, until the agent has been found.
        while keeper.fetch(&id("web")).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn while_the_agent_is_away_its_last_word_holds() {
    let (old, new) = (ca(), ca());
    let mut agent = Agent::running(Ok(vec![svid(&old, "web", &[&old])]));
    let (keeper, source) = (agent.keeper(), agent.source());
    let web = soon(keeper.fetch(&id("web"))).await.unwrap();
    soon(source.issue(&id("web"))).await.unwrap();
    agent.stop();
    // Both come again, and find nobody who answers.
    let mute = UnixListener::bind(agent.socket()).unwrap();
    for _ in 0..2 {
        soon(mute.accept()).await.unwrap();
    }
    drop(mute);
    std::fs::remove_file(agent.socket()).unwrap();
    soon(source.issue(&id("web"))).await.expect("what was said holds");
    assert!(Arc::ptr_eq(&keeper.fetch(&id("web")).await.unwrap(), &web));
    agent.says(Ok(vec![svid(&new, "web", &[&new])]));
    agent.start();
    soon(keeper.replaced(&web)).await;
    assert_eq!(keeper.fetch(&id("web")).await.unwrap().anchors(), [new.root().clone()]);
}

#[tokio::test]
async fn a_message_with_an_unusable_part_changes_nothing() {
    let (old, new) = (ca(), ca());
    let agent = Agent::running(Ok(vec![svid(&old, "web", &[&old])]));
    let source = agent.source();
    let before = soon(source.issue(&id("web"))).await.unwrap();
    let damaged = Svid { x509_svid_key: Bytes::from_static(b"no key"), ..svid(&new, "db", &[&new]) };
    agent.says(Ok(vec![svid(&new, "web", &[&new]), damaged]));
    let mut changed = source.changed(&before);
    let mut calls = agent.calls.subscribe();
    tokio::select! {
        () = &mut changed => panic!("half of a message"),
        // The source has seen it, and comes back for another.
        came_back = soon(calls.wait_for(|calls| *calls > 1)) => drop(came_back.unwrap()),
    }
    assert_eq!(soon(source.issue(&id("web"))).await.unwrap().serial(), before.serial());
    agent.says(Ok(vec![svid(&new, "web", &[&new]), svid(&new, "db", &[&new])]));
    soon(changed).await;
    soon(source.issue(&id("db"))).await.unwrap();
}

#[tokio::test]
async fn who_is_nobody_any_more_gets_nothing_new_and_keeps_what_it_has() {
    let one = ca();
    let agent = Agent::running(Ok(vec![svid(&one, "web", &[&one]), svid(&one, "db", &[&one])]));
    let (keeper, source) = (agent.keeper(), agent.source());
    let web = soon(keeper.fetch(&id("web"))).await.unwrap();
    soon(source.issue(&id("web"))).await.unwrap();
    agent.says(Err(Status::permission_denied("no identity issued")));
    let refused = soon(async {
        loop {
            if let Err(error) = source.issue(&id("web")).await {
                return reason(&error);
            }
            tokio::task::yield_now().await;
        }
    });
    let refused = refused.await;
    assert!(refused.contains("no identity issued"), "{refused}");
    assert!(Arc::ptr_eq(&keeper.fetch(&id("web")).await.unwrap(), &web));
}

#[tokio::test]
async fn a_name_that_istio_does_not_give_harms_no_other_and_what_is_not_valid_is_told() {
    let (one, other) = (ca(), ca());
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://td/agent".try_into().unwrap())];
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    let key = rcgen::KeyPair::generate().unwrap();
    let stranger = Svid {
        spiffe_id: "spiffe://td/agent".into(),
        x509_svid: params.self_signed(&key).unwrap().der().to_vec().into(),
        x509_svid_key: key.serialize_der().into(),
        bundle: Bytes::copy_from_slice(one.root()),
    };
    let agent = Agent::running(Ok(vec![stranger, svid(&other, "web", &[&one]), svid_for(&one, "old", &[&one], Duration::ZERO)]));
    let keeper = agent.keeper();
    assert!(matches!(soon(keeper.fetch(&id("web"))).await, Err(CertError::Chain { .. })), "the bundle is not of its CA");
    assert!(matches!(soon(keeper.fetch(&id("old"))).await, Err(CertError::Expired { .. })));
}
