use super::*;
use crate::{
    cert::{DevCa, IssueFuture, Issuer, Keeper},
    model::Identity,
    transport::{
        CertSource as _,
        tls::{accept, connect},
    },
};
use futures_util::FutureExt as _;
use rustls::pki_types::PrivatePkcs8KeyDer;
use std::{
    collections::HashSet,
    future::ready,
    sync::Mutex,
    time::{Duration, SystemTime},
};
use tokio::{runtime::Handle, time::timeout};

const TTL: Duration = Duration::from_secs(10_000);

/// One CA whose key and roots change as a test says.
#[derive(Debug)]
struct Rotating {
    cas: Vec<DevCa>,
    signer: Mutex<usize>,
    roots: Mutex<Vec<usize>>,
    failing: Mutex<HashSet<Identity>>,
    asked: Mutex<Vec<Identity>>,
    is_one: bool,
}

impl Rotating {
    fn new(count: usize, is_one: bool) -> (Arc<Self>, Keeper) {
        let cas = (0..count).map(|_| DevCa::create("td", TTL * 10).unwrap()).collect();
        let this =
            Self { cas, signer: Mutex::new(0), roots: Mutex::new(vec![0]), failing: Mutex::default(), asked: Mutex::default(), is_one };
        let this = Arc::new(this);
        (this.clone(), Keeper::new(this, Handle::current()))
    }

    /// From now on it signs with that key, and sends those roots along.
    fn answers(&self, signer: usize, roots: &[usize]) {
        (*self.signer.lock().unwrap(), *self.roots.lock().unwrap()) = (signer, roots.to_vec());
    }

    fn sign(&self, identity: &Identity, signer: usize, roots: &[usize], ttl: Duration) -> Arc<WorkloadCert> {
        let (leaf, key) = self.cas[signer].sign(identity, ttl).unwrap();
        let roots = roots.iter().map(|root| self.cas[*root].root().clone()).collect();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Arc::new(WorkloadCert::from_der(vec![leaf.into()], key.into(), roots).unwrap())
    }

    /// Which roots a certificate is used with.
    fn of(&self, cert: &WorkloadCert) -> Vec<usize> {
        let index = |root| self.cas.iter().position(|ca| ca.root() == root).unwrap();
        let mut roots: Vec<_> = cert.anchors().iter().map(index).collect();
        roots.sort_unstable();
        roots
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    async fn now(&self, keeper: &Keeper, name: &str) -> Vec<usize> {
        settle().await;
        self.of(&keeper.fetch(&id(name)).now_or_never().expect("from memory").unwrap())
    }
}

impl Issuer for Rotating {
    fn issue<'a>(&'a self, identity: &'a Identity) -> IssueFuture<'a> {
        self.asked.lock().unwrap().push(identity.clone());
        if self.failing.lock().unwrap().contains(identity) {
            return Box::pin(ready(Err(CertError::Unknown(identity.clone()))));
        }
        let (signer, roots) = (*self.signer.lock().unwrap(), self.roots.lock().unwrap().clone());
        Box::pin(ready(Ok(self.sign(identity, signer, &roots, TTL))))
    }

    fn one_authority(&self) -> Option<Duration> {
        self.is_one.then_some(TTL)
    }
}

fn id(name: &str) -> Identity {
    Identity::new("td", "app", name).unwrap()
}

/// Lets tasks run that have something to do, without time passing.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Whether both ends of a connection accept each other.
async fn shake_hands(client: &WorkloadCert, server: &WorkloadCert) -> bool {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (expected, serve) = ([server.identity().clone()], accept(far, server, None));
    let (connected, accepted) = tokio::join!(connect(near, client, &expected, None), serve);
    connected.is_ok() && accepted.is_ok()
}

#[tokio::test(start_paused = true)]
async fn roots_that_come_with_one_certificate_hold_for_all_at_once() {
    let (ca, keeper) = Rotating::new(2, true);
    let before = keeper.fetch(&id("web")).await.unwrap();
    let (stranger, replaced) = (ca.sign(&id("stranger"), 1, &[0, 1], TTL), keeper.replaced(&before));
    assert!(!shake_hands(&before, &stranger).await && !shake_hands(&stranger, &before).await, "nobody knows the new root yet");

    ca.answers(0, &[0, 1]);
    keeper.fetch(&id("db")).await.unwrap();
    timeout(Duration::from_millis(1), replaced).await.expect("its tunnels are to be made anew");
    let web = keeper.fetch(&id("web")).now_or_never().expect("from memory").unwrap();
    assert_eq!((web.serial(), ca.of(&web)), (before.serial(), vec![0, 1]), "the same certificate with other roots");
    assert!(shake_hands(&web, &stranger).await && shake_hands(&stranger, &web).await);
    assert_eq!(ca.asked(), 2, "the CA is not asked for it");
}

#[tokio::test(start_paused = true)]
async fn old_roots_hold_until_the_last_certificate_expires_that_came_with_them() {
    let (ca, keeper) = Rotating::new(2, true);
    let started = Instant::now();
    keeper.fetch(&id("web")).await.unwrap();
    ca.answers(1, &[1]);
    keeper.fetch(&id("db")).await.unwrap();
    assert_eq!(ca.now(&keeper, "web").await, [0, 1]);
    assert_eq!(ca.now(&keeper, "db").await, [0, 1], "a peer may still have a certificate of the old root");

    // Both have been renewed by then, at their half-life.
    sleep_until(started + TTL - Duration::from_secs(2)).await;
    assert_eq!((ca.now(&keeper, "web").await, ca.now(&keeper, "db").await), (vec![0, 1], vec![0, 1]));
    let db = keeper.fetch(&id("db")).await.unwrap();
    let asked = ca.asked();
    sleep_until(started + TTL + Duration::from_secs(1)).await;
    assert_eq!((ca.now(&keeper, "web").await, ca.now(&keeper, "db").await), (vec![1], vec![1]));
    assert!(keeper.replaced(&db).now_or_never().is_some());
    assert_eq!(ca.asked(), asked, "time alone takes it away");
}

#[tokio::test(start_paused = true)]
async fn an_identity_whose_renewal_fails_gets_the_new_roots_all_the_same() {
    let (ca, keeper) = Rotating::new(2, true);
    let web = keeper.fetch(&id("web")).await.unwrap();
    ca.failing.lock().unwrap().insert(id("web"));
    // Its renewal has failed for a while: it waits for another try.
    tokio::time::sleep(TTL * 6 / 10).await;
    assert!(ca.asked() > 3, "{}", ca.asked());
    ca.answers(1, &[0, 1]);
    keeper.fetch(&id("db")).await.unwrap();
    assert_eq!(ca.now(&keeper, "web").await, [0, 1]);
    assert_eq!(keeper.fetch(&id("web")).await.unwrap().serial(), web.serial());
}

#[tokio::test(start_paused = true)]
async fn other_roots_leave_the_time_of_renewal_as_it_is() {
    let (ca, keeper) = Rotating::new(2, true);
    let web = keeper.fetch(&id("web")).await.unwrap();
    let started = Instant::now();
    tokio::time::sleep(TTL * 4 / 10).await;
    ca.answers(1, &[1, 0]);
    keeper.fetch(&id("db")).await.unwrap();
    assert_eq!(ca.now(&keeper, "web").await, [0, 1]);
    let same = keeper.fetch(&id("web")).await.unwrap();
    timeout(TTL, keeper.replaced(&same)).await.expect("renewed");
    assert_ne!(keeper.fetch(&id("web")).await.unwrap().serial(), web.serial());
    assert!(started.elapsed() < TTL * 56 / 100, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_chain_to_a_root_that_holds_is_good_and_another_is_not() {
    let (ca, keeper) = Rotating::new(4, true);
    keeper.fetch(&id("web")).await.unwrap();
    ca.answers(0, &[1]);
    keeper.fetch(&id("db")).await.expect("the new root is told before anything is signed with it");
    ca.answers(2, &[3]);
    assert!(matches!(keeper.fetch(&id("mallory")).await, Err(CertError::Chain { .. })));
    assert_eq!(ca.now(&keeper, "web").await, [0, 1], "roots of an answer that is refused are not learnt");
}

#[tokio::test(start_paused = true)]
async fn the_same_roots_in_another_order_are_no_change() {
    let (ca, keeper) = Rotating::new(2, true);
    ca.answers(0, &[0, 1]);
    let web = keeper.fetch(&id("web")).await.unwrap();
    ca.answers(0, &[1, 0]);
    let db = keeper.fetch(&id("db")).await.unwrap();
    settle().await;
    assert!(keeper.replaced(&web).now_or_never().is_none());
    assert_eq!(web.anchors(), db.anchors());
}

#[tokio::test(start_paused = true)]
async fn there_are_never_more_roots_than_can_be_meant() {
    let (ca, keeper) = Rotating::new(MAX_EARLIER + 5, true);
    for index in 0..ca.cas.len() {
        ca.answers(index, &[index]);
        keeper.fetch(&id(&format!("pod-{index}"))).await.unwrap();
        // The roots that end first are those that came first; ends are whole seconds.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(ca.now(&keeper, "pod-0").await, (4..MAX_EARLIER + 5).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn without_one_authority_each_certificate_is_used_with_its_own_roots() {
    let (ca, keeper) = Rotating::new(2, false);
    keeper.fetch(&id("web")).await.unwrap();
    ca.answers(1, &[1]);
    keeper.fetch(&id("db")).await.unwrap();
    assert_eq!((ca.now(&keeper, "web").await, ca.now(&keeper, "db").await), (vec![0], vec![1]));
    ca.answers(0, &[1]);
    assert!(matches!(keeper.fetch(&id("other")).await, Err(CertError::Chain { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_root_that_is_in_two_answers_holds_for_the_longer_lived() {
    let (ca, _) = Rotating::new(2, true);
    let (trust, now) = (Trust::new(TTL * 2), Instant::now());
    let root = |index: usize| std::slice::from_ref(ca.cas[index].root());
    trust.learn(root(0), now + TTL * 2);
    trust.learn(root(0), now + TTL);
    trust.learn(root(1), now + TTL);
    let cert = ca.sign(&id("web"), 0, &[0], TTL);
    cert.verify(SystemTime::now()).unwrap();
    let mut changes = trust.subscribe();
    tokio::time::sleep(TTL + Duration::from_secs(1)).await;
    assert_eq!(ca.of(&trust.apply(&cert).unwrap()), [0, 1]);
    trust.changed(&mut changes).await;
    assert_eq!(now.elapsed().as_secs(), (TTL * 2).as_secs());
    assert_eq!(ca.of(&trust.apply(&cert).unwrap()), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_gives_more_time_than_was_asked_for_does_not_keep_its_old_root_alive() {
    let (ca, _) = Rotating::new(2, true);
    let root = |index: usize| std::slice::from_ref(ca.cas[index].root());
    for (longest, given, ends) in [(TTL, TTL * 9, TTL), (TTL, TTL, TTL), (TTL * 9, TTL, TTL), (Duration::MAX, TTL, TTL)] {
        let (trust, now) = (Trust::new(longest), Instant::now());
        trust.learn(root(0), now + given);
        // It counts from the last answer that has the root.
        tokio::time::sleep(Duration::from_secs(5)).await;
        trust.learn(root(0), Instant::now() + given);
        trust.learn(root(1), Instant::now() + given);
        let mut changes = trust.subscribe();
        trust.changed(&mut changes).await;
        assert_eq!(now.elapsed().as_secs(), ends.as_secs() + 5, "{longest:?} {given:?}");
        let cert = ca.sign(&id("web"), 0, &[0], TTL * 9);
        assert_eq!(ca.of(&trust.apply(&cert).unwrap()), [1]);
    }
}
