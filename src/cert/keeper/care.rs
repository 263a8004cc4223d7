//! The task that keeps one identity supplied.

use super::turns::{Priority, Ticket, Turns};
use crate::{
    cert::{Issuer, trust::Trust},
    model::Identity,
    telemetry,
    transport::{CertError, WorkloadCert},
};
use std::{
    error::Error,
    future::pending,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{sync::watch, time::Instant};

/// An issuer that says nothing for this long has failed.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(30);
/// The wait after a first failure; it doubles with each.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait after a failure, and between two looks at an issuer that has nothing newer than
/// a certificate beyond its half-life.
const LAST_RETRY: Duration = Duration::from_secs(150);

/// What there is for an identity.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// Nothing yet, nor a failure.
    Initializing,
    /// A certificate, good until that moment.
    Available(Arc<WorkloadCert>, Instant),
    /// None, and why.
    Unavailable(CertError),
}

/// Somebody else's certificate.
#[derive(Debug, thiserror::Error)]
#[error("the issuer gave a certificate of {0}")]
struct WrongIdentity(Identity);

/// Supplies one identity.
#[derive(Debug)]
pub(super) struct Care {
    pub(super) identity: Identity,
    pub(super) issuer: Arc<dyn Issuer>,
    pub(super) turns: Arc<Turns>,
    /// The roots that hold, when all certificates come from one CA.
    pub(super) trust: Option<Arc<Trust>>,
    pub(super) state: watch::Sender<State>,
}

impl State {
    /// What a caller gets; `None` while it is worth waiting.
    pub(super) fn answer(&self) -> Option<Result<Arc<WorkloadCert>, CertError>> {
        match self {
            Self::Initializing => None,
            Self::Available(cert, expires) if Instant::now() < *expires => {
                // The clocks of this process and of the world may run apart, in a machine that sleeps for one.
                Some(cert.check_not_expired(SystemTime::now()).map(|()| cert.clone()))
            }
            Self::Available(cert, _) => Some(Err(CertError::Expired { identity: cert.identity().clone(), not_after: cert.not_after() })),
            Self::Unavailable(error) => Some(Err(error.clone())),
        }
    }
}

impl Care {
    /// Until the line is gone, which does not happen before its keeper is.
    pub(super) async fn run(self, ticket: Ticket) {
        tokio::select! {
            () = self.supply(ticket) => {}
            () = self.follow_trust() => {}
        }
    }

    /// Asks for a certificate when the ticket says so, and again and again when the time has come.
    async fn supply(&self, mut ticket: Ticket) {
        let mut failures = 0;
        // A ticket fails only when the line is gone, and the line is held by `self`.
        while let Ok(turn) = ticket.await {
            let issued = self.issue().await;
            drop(turn);
            match issued {
                Ok(cert) => {
                    failures = 0;
                    let cert = self.publish(cert);
                    let renewal = tokio::time::sleep(until_renewal(&cert));
                    tokio::select! {
                        () = renewal => {}
                        () = self.issuer.changed(&cert) => {}
                    }
                }
                Err(error) => {
                    let wait = self.failed(error, backoff(failures));
                    failures = failures.saturating_add(1);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.issuer.recovered() => {}
                    }
                }
            }
            ticket = self.turns.enqueue(&self.identity, Priority::Background);
        }
    }

    /// Has the certificate in use give way to the same with other roots, whenever other roots hold.
    async fn follow_trust(&self) {
        let Some(trust) = &self.trust else { return pending().await };
        let mut changes = trust.subscribe();
        loop {
            trust.changed(&mut changes).await;
            let in_use = match &*self.state.borrow() {
                State::Available(cert, _) => cert.clone(),
                State::Initializing | State::Unavailable(_) => continue,
            };
            match trust.apply(&in_use) {
                Ok(cert) => {
                    self.state.send_if_modified(|state| match state {
                        State::Available(current, _) if !Arc::ptr_eq(current, &cert) => {
                            *current = cert;
                            true
                        }
                        State::Available(..) | State::Initializing | State::Unavailable(_) => false,
                    });
                }
                Err(error) => tracing::warn!(identity = %self.identity, error = reason(&error), "the old roots stay"),
            }
        }
    }

    async fn issue(&self) -> Result<Arc<WorkloadCert>, CertError> {
        let issued = tokio::time::timeout(ISSUE_TIMEOUT, self.issuer.issue(&self.identity)).await;
        let late = |_| Err(CertError::Unavailable(Arc::new(io::Error::from(io::ErrorKind::TimedOut))));
        let cert = issued.unwrap_or_else(late)?;
        if *cert.identity() != self.identity {
            return Err(CertError::Unavailable(Arc::new(WrongIdentity(cert.identity().clone()))));
        }
        let Some(trust) = &self.trust else { return cert.verify(SystemTime::now()).map(|()| cert) };
        trust.join(&cert)?.verify(SystemTime::now())?;
        trust.learn(cert.anchors(), Instant::now() + remaining(cert.not_after()));
        trust.apply(&cert)
    }

    /// The certificate in use from now on: the one there is, if the issuer has nothing newer.
    fn publish(&self, cert: Arc<WorkloadCert>) -> Arc<WorkloadCert> {
        let expires = Instant::now() + remaining(cert.not_after());
        let mut used = cert.clone();
        let is_new = self.state.send_if_modified(|state| {
            match state {
                State::Available(current, _) if current.fingerprint() == cert.fingerprint() => used = current.clone(),
                State::Available(..) | State::Initializing | State::Unavailable(_) => {
                    *state = State::Available(cert, expires);
                    return true;
                }
            }
            false
        });
        if is_new {
            telemetry::cert_reload(true);
            tracing::info!(identity = %self.identity, serial = used.serial(), "certificate issued");
        }
        used
    }

    /// Makes a failure known, unless a certificate is still good; returns when to try again, not
    /// later than its end.
    fn failed(&self, error: CertError, wait: Duration) -> Duration {
        telemetry::cert_reload(false);
        let now = Instant::now();
        let mut wait = wait;
        let cause = reason(&error);
        self.state.send_if_modified(|state| match state {
            State::Available(_, expires) if now < *expires => {
                wait = wait.min(*expires - now);
                false
            }
            State::Available(..) | State::Initializing | State::Unavailable(_) => {
                *state = State::Unavailable(error);
                true
            }
        });
        tracing::warn!(identity = %self.identity, error = cause, retry_in = ?wait, "no new certificate");
        wait
    }
}

/// An error with its causes, in one line.
pub(super) fn reason(error: &CertError) -> String {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn remaining(until: SystemTime) -> Duration {
    until.duration_since(SystemTime::now()).unwrap_or_default()
}

/// Until the half-life, a tenth more or less so that certificates issued together are not renewed
/// together; before the end in any case.
fn until_renewal(cert: &WorkloadCert) -> Duration {
    let half_life = remaining(cert.half_life());
    let wait = if half_life.is_zero() { LAST_RETRY } else { half_life.mul_f64(0.9 + 0.2 * fastrand::f64()) };
    wait.min(remaining(cert.not_after())).max(FIRST_RETRY)
}

/// How long to wait after that many failures and one more: doubling, a fifth more or less.
fn backoff(failures: u32) -> Duration {
    let wait = FIRST_RETRY.saturating_mul(2_u32.saturating_pow(failures)).min(LAST_RETRY);
    wait.mul_f64(0.8 + 0.4 * fastrand::f64()).min(LAST_RETRY)
}
