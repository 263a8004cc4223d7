use super::{
    fixture::{Built, Hop, NAMESPACE, pod, policy},
    stand::{Place, Stand, echo, says_back, within},
};
use crate::{
    model::{Action, AuthorizationPolicy, Clause, Match, PolicyTarget, ResourceName, Rule, StringMatch, Term, Test},
    runtime::{DrainTrigger, drain},
    telemetry::{Record, ResponseFlag, TcpEvent, TcpRecord},
    transport::OriginalDst,
    ztunnel::{OwnPorts, Shared, plaintext, tracker},
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// A proxy to which connections come as if redirected from `dst`.
struct Redirected {
    shared: Arc<Shared>,
    // Dropped, it would force the drain.
    _drain: DrainTrigger,
    records: mpsc::Receiver<Record>,
}

impl Redirected {
    fn new(stand: &Stand) -> Self {
        Self::with(stand, OwnPorts::default())
    }

    fn with(stand: &Stand, own: OwnPorts) -> Self {
        let (ztunnel, records) = stand.ztunnel("server", "server");
        let (drain, watch) = drain::new();
        let shared = Arc::new(ztunnel.shared(own, watch));
        tokio::spawn(tracker::run(shared.clone()));
        Self { shared, _drain: drain, records }
    }

    async fn connect(&self, dst: SocketAddr) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let shared = self.shared.clone();
        tokio::spawn(async move { plaintext::forward(&shared, stream, peer, OriginalDst(dst)).await });
        client
    }

    async fn record(&mut self) -> TcpRecord {
        let Some(Record::Tcp(record)) = self.records.recv().await else { panic!("a connection is recorded") };
        *record
    }
}

#[tokio::test]
async fn plain_text_passes_until_a_policy_asks_for_an_identity() {
    within(async {
        let (mut stand, server) = (Stand::new(), Place::new());
        let dst = SocketAddr::new(server.ip, echo(server.ip).await);
        stand.apply([pod("server", &server.text(), Hop::Hbone)]);
        let mut proxy = Redirected::new(&stand);
        let mut open = proxy.connect(dst).await;
        says_back(&mut open, "hello").await;
        assert_eq!(proxy.shared.tracker.len(), 1);
        let strict = Term { negated: false, test: Test::Principal(vec![StringMatch::Presence]) };
        let rule = Rule { clauses: vec![Clause { matches: vec![Match { terms: vec![strict] }] }] };
        stand.apply([policy("strict", Action::Allow, vec![rule])]);
        let error = open.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let record = proxy.record().await;
        assert_eq!((record.flag, record.source.identity, record.bytes_recv), (ResponseFlag::Denied, None, 5));
        let mut late = proxy.connect(dst).await;
        late.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(proxy.record().await.flag, ResponseFlag::Denied);
        assert_eq!(proxy.shared.tracker.len(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_policy_that_the_workload_lists_from_now_on_closes_what_is_open() {
    within(async {
        let (mut stand, server) = (Stand::new(), Place::new());
        let dst = SocketAddr::new(server.ip, echo(server.ip).await);
        let nobody = AuthorizationPolicy {
            name: ResourceName::new(NAMESPACE, "nobody"),
            target: PolicyTarget::Listed,
            action: Action::Deny,
            dry_run: false,
            rules: vec![Rule::default()],
            invalid: None,
        };
        let server = pod("server", &server.text(), Hop::Hbone);
        stand.apply([server.clone(), Built(nobody.clone().into())]);
        let mut proxy = Redirected::new(&stand);
        let mut open = proxy.connect(dst).await;
        says_back(&mut open, "hello").await;
        stand.apply([server.workload(|w| w.l4.policies = vec![nobody.name])]);
        let error = open.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let record = proxy.record().await;
        assert_eq!((record.flag, record.bytes_recv), (ResponseFlag::Denied, 5));
        assert_eq!(record.error.as_deref(), Some("policy rejection: explicitly denied by demo/nobody"));
    })
    .await;
}

#[tokio::test]
async fn the_proxys_own_ports_are_not_for_clients() {
    within(async {
        let (mut stand, server) = (Stand::new(), Place::new());
        stand.apply([pod("server", &server.text(), Hop::Hbone)]);
        let mut proxy = Redirected::new(&stand);
        let mapped = match server.ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
            IpAddr::V6(_) => server.ip,
        };
        let elsewhere = ["127.0.0.1", "192.0.2.1", "::1", "::ffff:127.0.0.1"].map(|ip| ip.parse().unwrap());
        for ip in [server.ip, mapped].into_iter().chain(elsewhere) {
            for port in [15001, 15006, 15008, 15080] {
                let mut stream = proxy.connect(SocketAddr::new(ip, port)).await;
                let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                assert_eq!(proxy.record().await.event, TcpEvent::Refused, "{ip} port {port}");
            }
        }
        // A port of its own choosing, where it listens.
        let bound = SocketAddr::new(server.ip, 4000);
        let mut proxy = Redirected::with(&stand, OwnPorts::new(vec![bound]));
        for ip in [server.ip, mapped] {
            let mut stream = proxy.connect(SocketAddr::new(ip, bound.port())).await;
            stream.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(proxy.record().await.event, TcpEvent::Refused, "{ip}");
        }
    })
    .await;
}
