use super::*;
use crate::cert::{CaIssuer, DevCa, IssueFuture};
use futures_util::{FutureExt as _, future::join_all};
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, advance, sleep, timeout},
};

/// Life of the certificates here, counted from now on; they began five minutes ago.
const TTL: Duration = Duration::from_secs(10_300);
/// Until their half-life.
const HALF: Duration = Duration::from_secs(5_000);
/// Longer than it takes until the issuer counts as silent.
const LATE: Duration = Duration::from_secs(40);

fn id(name: &str) -> Identity {
    Identity::new("td", "app", name).unwrap()
}

/// An issuer that a test holds up, has fail, and asks what it was asked.
#[derive(Debug)]
struct Fake {
    ca: CaIssuer,
    asked: Mutex<Vec<(Identity, Instant)>>,
    gate: Semaphore,
    is_failing: AtomicBool,
    impostor: Mutex<Option<Identity>>,
    changed: Notify,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Fake {
    fn with(ttl: Duration, permits: usize) -> (Arc<Self>, Keeper) {
        let ca = CaIssuer::new(DevCa::create("td", TTL * 10).unwrap(), ttl);
        let fake = Arc::new(Self {
            ca,
            asked: Mutex::default(),
            gate: Semaphore::new(permits),
            is_failing: AtomicBool::new(false),
            impostor: Mutex::default(),
            changed: Notify::new(),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        (fake.clone(), Keeper::new(fake, Handle::current()))
    }

    fn new() -> (Arc<Self>, Keeper) {
        Self::with(TTL, Semaphore::MAX_PERMITS)
    }

    fn fail(&self, is_failing: bool) {
        self.is_failing.store(is_failing, Ordering::SeqCst);
    }

    fn asked(&self) -> Vec<Identity> {
        self.asked.lock().unwrap().iter().map(|(identity, _)| identity.clone()).collect()
    }

    /// The time between one question and the next.
    fn waits(&self) -> Vec<Duration> {
        let asked = self.asked.lock().unwrap();
        asked.windows(2).map(|pair| pair[1].1 - pair[0].1).collect()
    }

    /// Waits until it has been asked so often.
    async fn asked_times(&self, times: usize) {
        let patience = timeout(TTL * 100, async {
            while self.asked().len() < times {
                sleep(Duration::from_millis(250)).await;
            }
        });
        patience.await.unwrap_or_else(|_| panic!("asked {} times, not {times}", self.asked().len()));
    }
}

struct Running<'a>(&'a Fake);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Issuer for Fake {
    fn issue<'a>(&'a self, identity: &'a Identity) -> IssueFuture<'a> {
        Box::pin(async move {
            self.asked.lock().unwrap().push((identity.clone(), Instant::now()));
            self.most.fetch_max(self.running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let _running = Running(self);
            self.gate.acquire().await.unwrap().forget();
            if self.is_failing.load(Ordering::SeqCst) {
                return Err(CertError::Empty(crate::transport::tls::CertPart::Chain));
            }
            let impostor = self.impostor.lock().unwrap().clone();
            self.ca.issue(impostor.as_ref().unwrap_or(identity)).await
        })
    }

    fn changed<'a>(&'a self, _: &'a WorkloadCert) -> ReplacedFuture<'a> {
        Box::pin(self.changed.notified())
    }
}

/// Lets tasks run that have something to do, without time passing.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn between(value: Duration, low: Duration, high: Duration) -> bool {
    (low..=high).contains(&value)
}

#[tokio::test(start_paused = true)]
async fn all_who_ask_share_one_certificate() {
    let (fake, keeper) = Fake::new();
    let web = id("web");
    let certs = join_all((0..20).map(|_| keeper.fetch(&web))).await;
    let first = certs[0].as_ref().unwrap();
    assert_eq!(first.identity(), &web);
    assert!(certs.iter().all(|cert| Arc::ptr_eq(cert.as_ref().unwrap(), first)));
    keeper.prefetch(&web);
    assert!(Arc::ptr_eq(&keeper.fetch(&web).now_or_never().expect("from memory").unwrap(), first));
    assert_eq!(fake.asked(), [web]);
    keeper.fetch(&id("db")).await.unwrap();
    assert_eq!(fake.asked().len(), 2, "another identity is another certificate");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_does_not_take_the_others_along() {
    let (fake, keeper) = Fake::with(TTL, 0);
    let web = id("web");
    let gone = timeout(Duration::from_secs(1), keeper.fetch(&web)).await;
    assert!(gone.is_err());
    fake.gate.add_permits(1);
    keeper.fetch(&web).await.unwrap();
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn eight_are_asked_for_at_a_time_and_by_priority() {
    let (fake, keeper) = Fake::with(TTL, 0);
    let ids: Vec<_> = (0..12).map(|n| id(&format!("warm-{n:02}"))).collect();
    ids.iter().for_each(|id| keeper.prefetch(id));
    settle().await;
    assert_eq!(fake.asked().len(), TURNS);

    // One that nobody had thought of, and one that is warming up: both are needed now, in this order.
    let (new, raised) = (id("new"), ids[11].clone());
    let mut waiting = [keeper.fetch(&new), keeper.fetch(&raised)];
    assert!(waiting.iter_mut().all(|fetch| fetch.now_or_never().is_none()));
    fake.gate.add_permits(100);
    join_all(ids.iter().map(|id| keeper.fetch(id))).await;
    let asked = fake.asked();
    assert_eq!(asked[TURNS..].iter().collect::<Vec<_>>(), [&new, &raised, &ids[8], &ids[9], &ids[10]]);
    assert_eq!(fake.most.load(Ordering::SeqCst), TURNS);
}

#[tokio::test(start_paused = true)]
async fn at_half_life_it_is_renewed_in_the_background() {
    let (fake, keeper) = Fake::new();
    let web = id("web");
    let first = keeper.fetch(&web).await.unwrap();
    let replaced = keeper.replaced(&first);
    tokio::pin!(replaced);
    sleep(HALF * 8 / 10).await;
    assert!(replaced.as_mut().now_or_never().is_none());
    assert_eq!(fake.asked().len(), 1);
    replaced.await;
    let second = keeper.fetch(&web).now_or_never().expect("from memory").unwrap();
    assert_ne!(first.serial(), second.serial());
    assert!(keeper.replaced(&first).now_or_never().is_some(), "it was");
    assert!(keeper.replaced(&second).now_or_never().is_none());
    let [wait] = fake.waits()[..] else { panic!("{:?}", fake.waits()) };
    assert!(between(wait, HALF * 89 / 100, HALF * 111 / 100), "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn renewals_of_certificates_issued_together_are_apart() {
    let (fake, keeper) = Fake::new();
    let ids: Vec<_> = (0..20).map(|n| id(&format!("pod-{n}"))).collect();
    join_all(ids.iter().map(|id| keeper.fetch(id))).await;
    fake.asked_times(40).await;
    let asked = fake.asked.lock().unwrap();
    assert!(asked[39].1 - asked[20].1 > HALF / 100, "{:?}", asked[39].1 - asked[20].1);
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_has_something_new_is_asked_before_the_time() {
    let (fake, keeper) = Fake::new();
    let web = id("web");
    let first = keeper.fetch(&web).await.unwrap();
    settle().await;
    fake.changed.notify_one();
    timeout(Duration::from_secs(1), keeper.replaced(&first)).await.expect("at once");
}

#[tokio::test(start_paused = true)]
async fn without_a_certificate_callers_get_the_error_at_once_until_a_retry_succeeds() {
    let (fake, keeper) = Fake::new();
    let web = id("web");
    fake.fail(true);
    assert!(matches!(keeper.fetch(&web).await, Err(CertError::Empty(_))));
    for _ in 0..5 {
        let answer = keeper.fetch(&web).now_or_never().expect("at once");
        assert!(matches!(answer, Err(CertError::Empty(_))));
    }
    assert_eq!(fake.asked().len(), 1, "callers do not hurry it");
    fake.asked_times(12).await;
    let waits = fake.waits();
    for (n, wait) in waits.iter().enumerate() {
        let expected = Duration::from_secs(2_u64.pow(n as u32).min(150));
        // A tick of the clock more.
        let high = (expected * 12 / 10).min(Duration::from_secs(150)) + Duration::from_millis(2);
        assert!(between(*wait, expected * 8 / 10, high), "{n}: {wait:?}");
    }
    fake.fail(false);
    fake.asked_times(13).await;
    settle().await;
    keeper.fetch(&web).now_or_never().expect("at once").unwrap();

    fake.fail(true);
    fake.asked_times(15).await;
    let again = *fake.waits().last().unwrap();
    assert!(again < Duration::from_secs(2), "a success has made the failures before it forgotten: {again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_good_certificate_stays_while_the_issuer_fails_and_its_end_is_not_missed() {
    let (fake, keeper) = Fake::new();
    let web = id("web");
    let started = Instant::now();
    let first = keeper.fetch(&web).await.unwrap();
    fake.fail(true);
    fake.asked_times(8).await;
    let used = keeper.fetch(&web).now_or_never().expect("from memory").unwrap();
    assert!(Arc::ptr_eq(&used, &first));
    assert!(matches!(&keeper.list()[0].state, CertState::Available(cert) if Arc::ptr_eq(cert, &first)));

    sleep(TTL - Duration::from_secs(2) - started.elapsed()).await;
    keeper.fetch(&web).now_or_never().expect("from memory").unwrap();
    let before = fake.asked().len();
    fake.asked_times(before + 1).await;
    assert!(between(started.elapsed(), TTL - Duration::from_secs(2), TTL + Duration::from_secs(1)), "tried at its end");
    sleep(Duration::from_secs(1)).await;
    assert!(keeper.fetch(&web).now_or_never().expect("at once").is_err(), "an expired certificate is not given out");
    assert!(matches!(&keeper.list()[0].state, CertState::Unavailable(_)));
    let mut replaced = keeper.replaced(&first);
    assert!((&mut replaced).now_or_never().is_none(), "there is nothing to replace it with");
    fake.fail(false);
    timeout(LATE * 10, replaced).await.expect("the next retry succeeds");
    keeper.fetch(&web).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_good_certificate_outlives_answers_that_are_of_no_use() {
    let (fake, keeper) = Fake::new();
    let web = id("web");
    let first = keeper.fetch(&web).await.unwrap();
    *fake.impostor.lock().unwrap() = Some(id("mallory"));
    fake.asked_times(4).await;
    settle().await;
    assert!(Arc::ptr_eq(&keeper.fetch(&web).now_or_never().expect("from memory").unwrap(), &first));
    assert!(keeper.replaced(&first).now_or_never().is_none());
    *fake.impostor.lock().unwrap() = None;
    timeout(LATE * 10, keeper.replaced(&first)).await.expect("the next good answer is used");
}

#[tokio::test(start_paused = true)]
async fn after_the_end_of_a_certificate_nobody_waits_for_an_issuer_that_is_silent() {
    let (fake, keeper) = Fake::with(TTL, 1);
    let web = id("web");
    let started = Instant::now();
    keeper.fetch(&web).await.unwrap();
    // From its half-life on it is asked for, and no answer comes.
    sleep(TTL - Duration::from_secs(2) - started.elapsed()).await;
    keeper.fetch(&web).now_or_never().expect("from memory").expect("still good");
    assert!(fake.asked().len() > 2, "{:?}", fake.asked().len());
    sleep(Duration::from_secs(3)).await;
    assert!(keeper.fetch(&web).now_or_never().expect("at once").is_err());
    sleep(LATE).await;
    assert!(keeper.fetch(&web).now_or_never().expect("at once").is_err());
}

#[tokio::test(start_paused = true)]
async fn the_moment_that_a_certificate_ends_callers_are_told_so() {
    let (_fake, keeper) = Fake::with(TTL, 1);
    let web = id("web");
    let started = Instant::now();
    keeper.fetch(&web).await.unwrap();
    let mut last = Ok(());
    while last.is_ok() && started.elapsed() < TTL * 2 {
        advance(Duration::from_millis(100)).await;
        last = keeper.fetch(&web).now_or_never().expect("at once").map(|_| ());
    }
    assert!(matches!(last, Err(CertError::Expired { .. })), "{last:?}");
    assert!(between(started.elapsed(), TTL - Duration::from_secs(2), TTL + Duration::from_secs(1)), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_identity_is_asked_for_anew() {
    let (fake, keeper) = Fake::new();
    let web = id("web");
    let first = keeper.fetch(&web).await.unwrap();
    let replaced = keeper.replaced(&first);
    keeper.forget(&web);
    keeper.forget(&id("never-known"));
    timeout(Duration::from_secs(1), replaced).await.expect("its tunnels are to go");
    assert!(keeper.list().is_empty());
    sleep(TTL).await;
    assert_eq!(fake.asked().len(), 1, "not renewed");
    assert!(!Arc::ptr_eq(&keeper.fetch(&web).await.unwrap(), &first));
}

#[tokio::test(start_paused = true)]
async fn a_pending_identity_can_be_forgotten_whether_asked_for_or_in_line() {
    let (fake, keeper) = Fake::with(TTL, 0);
    let asked_for: Vec<_> = (0..TURNS).map(|n| id(&format!("asked-{n}"))).collect();
    let in_line = id("in-line");
    let all: Vec<_> = asked_for.iter().chain([&in_line]).collect();
    let mut waiting = join_all(all.iter().map(|id| keeper.fetch(id)));
    assert!((&mut waiting).now_or_never().is_none());
    settle().await;
    assert_eq!(fake.asked(), asked_for);
    all.iter().for_each(|id| keeper.forget(id));
    for (answer, id) in waiting.await.into_iter().zip(all) {
        assert!(matches!(answer, Err(CertError::Unknown(unknown)) if unknown == *id));
    }
    assert_eq!((fake.asked().len(), fake.running.load(Ordering::SeqCst)), (TURNS, 0));
    // All turns are free again.
    fake.gate.add_permits(TURNS);
    join_all(asked_for.iter().map(|id| keeper.fetch(id))).await;
    assert_eq!(fake.asked().len(), 2 * TURNS);
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_says_nothing_has_failed_and_does_not_hold_up_the_others() {
    let (fake, keeper) = Fake::with(TTL, 0);
    let ids: Vec<_> = (0..TURNS).map(|n| id(&format!("stuck-{n}"))).collect();
    let answers = timeout(LATE, join_all(ids.iter().map(|id| keeper.fetch(id)))).await.expect("within the limit");
    assert!(answers.iter().all(|answer| matches!(answer, Err(CertError::Unavailable(_)))));
    let CertState::Unavailable(reason) = &keeper.list()[0].state else { panic!("{:?}", keeper.list()) };
    assert!(reason.contains("timed out"), "{reason}");
    fake.gate.add_permits(100);
    timeout(LATE, keeper.fetch(&id("other"))).await.expect("there is a turn").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_somebody_else_or_one_that_is_not_valid_is_not_used() {
    let (fake, keeper) = Fake::new();
    *fake.impostor.lock().unwrap() = Some(id("mallory"));
    assert!(matches!(keeper.fetch(&id("web")).await, Err(CertError::Unavailable(_))));
    let CertState::Unavailable(reason) = &keeper.list()[0].state else { panic!("{:?}", keeper.list()) };
    assert!(reason.contains("mallory"), "{reason}");
    let (_fake, keeper) = Fake::with(Duration::ZERO, 10);
    assert!(matches!(keeper.fetch(&id("web")).await, Err(CertError::Expired { .. })));
}

#[tokio::test(start_paused = true)]
async fn the_list_tells_all_states_in_order_and_no_keys() {
    let (fake, keeper) = Fake::with(TTL, 2);
    let web = keeper.fetch(&id("web")).await.unwrap();
    let foreign = Identity::new("elsewhere", "app", "web").unwrap();
    keeper.fetch(&foreign).await.unwrap_err();
    keeper.prefetch(&id("pending"));
    settle().await;
    let list = keeper.list();
    let names: Vec<_> = list.iter().map(|status| status.identity.clone()).collect();
    assert_eq!(names, [foreign, id("pending"), id("web")]);
    assert!(matches!(list[1].state, CertState::Initializing));
    assert!(matches!(&list[2].state, CertState::Available(cert) if Arc::ptr_eq(cert, &web)));
    let CertState::Unavailable(reason) = &list[0].state else { panic!("{list:?}") };
    assert!(reason.contains("trust domain"), "the reason with its causes: {reason}");
    let text = format!("{list:?} {keeper:?} {fake:?}");
    assert!(text.contains("serial") && !text.contains("PRIVATE") && !text.to_lowercase().contains("key:"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_keeper_that_is_dropped_asks_no_more() {
    let (fake, keeper) = Fake::new();
    keeper.fetch(&id("web")).await.unwrap();
    drop(keeper);
    advance(TTL).await;
    settle().await;
    assert_eq!(fake.asked().len(), 1);
    assert_eq!(Arc::strong_count(&fake), 1, "nothing holds the issuer any more");
}
