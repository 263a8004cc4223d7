//! SPIFFE's Workload API (SPIRE's agent) as an issuer: certificates that come by themselves, in one
//! stream, with the roots of their trust domain. <https://spiffe.io/docs/latest/spiffe-specs/spiffe_workload_api/>
//!
//! Each message of the stream is the whole of what this process may be, and takes the place of the
//! one before. A message of which a part is unusable changes nothing.

use super::{IssueFuture, Issuer};
use crate::{
    model::Identity,
    transport::{CertError, ReplacedFuture, WorkloadCert, tls::CertPart},
};
use futures_util::StreamExt as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use spiffe::{Certificate, WorkloadApiClient, WorkloadApiError, X509Context, X509Svid, transport::Endpoint};
use std::{
    fmt,
    future::pending,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// The wait after a first failure to connect; it doubles with each.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait between two attempts.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How long a connect may take.
const CONNECT: Duration = Duration::from_secs(5);

/// What an agent gives to this process. Its task ends with it.
///
/// While the agent is away, what it gave last is given out, for as long as it is valid. When it says
/// that this process is nobody any more, there is nothing new to be had; what the
/// [`Keeper`](super::Keeper) has stays in use until it expires.
pub struct SpiffeSource {
    offer: watch::Receiver<Offer>,
    _task: AbortOnDropHandle<()>,
}

/// What the agent said last.
#[derive(Clone)]
enum Offer {
    /// Nothing yet.
    Waiting,
    /// Nothing, for this reason.
    Nothing(Arc<SpiffeError>),
    /// All that this process may be.
    Given(Arc<X509Context>),
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum SpiffeError {
    /// The socket is none.
    #[error("{0:?} is not a socket of the workload API: unix:///PATH or /PATH")]
    Socket(String),
    /// The agent is away, or gives nothing.
    #[error("the workload API at {} gives no certificate", .0.display())]
    Agent(PathBuf, #[source] WorkloadApiError),
    /// It ended the stream without a reason, or does not answer.
    #[error("the workload API at {} says nothing", .0.display())]
    Silent(PathBuf),
    /// This process is others, not that one.
    #[error("the workload API has no certificate of {wanted}, only of {}", offered.join(", "))]
    NotOffered {
        /// Who was asked for.
        wanted: Identity,
        /// Who there is.
        offered: Vec<String>,
    },
    /// The task is gone: the runtime is going down.
    #[error("the workload API is no longer listened to")]
    Closed,
}

impl SpiffeSource {
    /// Listens to the agent at `socket`, whether it is there already or comes later.
    ///
    /// # Errors
    /// [`SpiffeError::Socket`].
    pub fn connect(socket: &str, runtime: &Handle) -> Result<Self, SpiffeError> {
        let path = PathBuf::from(socket.strip_prefix("unix://").or_else(|| socket.strip_prefix("unix:")).unwrap_or(socket));
        if !path.is_absolute() {
            return Err(SpiffeError::Socket(socket.to_owned()));
        }
        let (sender, offer) = watch::channel(Offer::Waiting);
        let task = runtime.spawn(listen(path, sender));
        Ok(Self { offer, _task: AbortOnDropHandle::new(task) })
    }
}

impl Issuer for SpiffeSource {
    fn issue<'a>(&'a self, identity: &'a Identity) -> IssueFuture<'a> {
        Box::pin(async {
            let mut offer = self.offer.clone();
            let said = offer.wait_for(|offer| !matches!(offer, Offer::Waiting)).await;
            let said = said.map_err(|_| CertError::Unavailable(Arc::new(SpiffeError::Closed)))?.clone();
            match said {
                Offer::Given(given) => certificate(&given, identity).map(Arc::new),
                Offer::Nothing(error) => Err(CertError::Unavailable(error)),
                Offer::Waiting => Err(CertError::Unavailable(Arc::new(SpiffeError::Closed))),
            }
        })
    }

    fn changed<'a>(&'a self, cert: &'a WorkloadCert) -> ReplacedFuture<'a> {
        let is_other = |offer: &Offer| match offer {
            Offer::Given(given) => find(given, cert.identity()).is_some_and(|svid| !is_same(given, svid, cert)),
            Offer::Waiting | Offer::Nothing(_) => false,
        };
        Box::pin(wait(self.offer.clone(), is_other))
    }

    fn recovered(&self) -> ReplacedFuture<'_> {
        let before = self.offer.borrow().clone();
        let is_news = move |offer: &Offer| match (offer, &before) {
            (Offer::Given(now), Offer::Given(before)) => !Arc::ptr_eq(now, before),
            (Offer::Given(_), Offer::Waiting | Offer::Nothing(_)) => true,
            (Offer::Waiting | Offer::Nothing(_), _) => false,
        };
        Box::pin(wait(self.offer.clone(), is_news))
    }
}

impl fmt::Debug for SpiffeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = match &*self.offer.borrow() {
            Offer::Waiting => "nothing yet".to_owned(),
            Offer::Nothing(error) => error.to_string(),
            Offer::Given(given) => names(given).join(", "),
        };
        f.debug_struct("SpiffeSource").field("offer", &said).finish_non_exhaustive()
    }
}

/// Waits for what the agent says, or for ever when nobody listens any more.
async fn wait(mut offer: watch::Receiver<Offer>, is_it: impl Fn(&Offer) -> bool) {
    if offer.wait_for(is_it).await.is_err() {
        pending::<()>().await;
    }
}

/// Keeps the stream open.
async fn listen(path: PathBuf, offer: watch::Sender<Offer>) {
    let mut failures = 0_u32;
    let mut reported = String::new();
    loop {
        let error = stream(&path, &offer, &mut failures).await;
        let is_withdrawn =
            matches!(&error, SpiffeError::Agent(_, WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_)));
        let text = format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
        if text != reported {
            tracing::warn!(error = &error as &dyn std::error::Error, "no news from the workload API");
            reported = text;
        }
        offer.send_if_modified(|offer| {
            let is_over = is_withdrawn || !matches!(offer, Offer::Given(_));
            if is_over {
                *offer = Offer::Nothing(Arc::new(error));
            }
            is_over
        });
        let wait = FIRST_RETRY.saturating_mul(2_u32.saturating_pow(failures)).min(LAST_RETRY);
        failures = failures.saturating_add(1);
        sleep(wait.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
    }
}

/// Takes what comes until the stream ends, and says why it did.
async fn stream(path: &Path, offer: &watch::Sender<Offer>, failures: &mut u32) -> SpiffeError {
    let broken = |error| SpiffeError::Agent(path.to_owned(), error);
    let connected = timeout(CONNECT, WorkloadApiClient::connect(Endpoint::Unix(path.to_owned()))).await;
    let stream = match connected {
        Ok(Ok(client)) => client.stream_x509_contexts().await,
        Ok(Err(error)) => Err(error),
        Err(_) => return SpiffeError::Silent(path.to_owned()),
    };
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(error) => return broken(error),
    };
    while let Some(said) = stream.next().await {
        match said {
            Ok(given) => {
                tracing::info!(identities = ?names(&given), "the workload API gave certificates");
                *failures = 0;
                offer.send_replace(Offer::Given(Arc::new(given)));
            }
            Err(error) => return broken(error),
        }
    }
    SpiffeError::Silent(path.to_owned())
}

fn find<'a>(given: &'a X509Context, identity: &Identity) -> Option<&'a X509Svid> {
    given.svids().iter().map(AsRef::as_ref).find(|svid| svid.spiffe_id().to_string() == identity.as_str())
}

fn names(given: &X509Context) -> Vec<String> {
    given.svids().iter().map(|svid| svid.spiffe_id().to_string()).collect()
}

fn roots<'a>(given: &'a X509Context, svid: &X509Svid) -> &'a [Certificate] {
    given.bundle_set().get_ref(svid.spiffe_id().trust_domain()).map(|bundle| bundle.authorities()).unwrap_or_default()
}

fn is_same(given: &X509Context, svid: &X509Svid, cert: &WorkloadCert) -> bool {
    let same =
        |given: &[Certificate], used: &[CertificateDer<'_>]| given.iter().map(Certificate::as_bytes).eq(used.iter().map(AsRef::as_ref));
    same(svid.cert_chain(), cert.chain()) && same(roots(given, svid), cert.anchors())
}

fn certificate(given: &X509Context, identity: &Identity) -> Result<WorkloadCert, CertError> {
    let Some(svid) = find(given, identity) else {
        let error = SpiffeError::NotOffered { wanted: identity.clone(), offered: names(given) };
        return Err(CertError::Unavailable(Arc::new(error)));
    };
    let ders = |certificates: &[Certificate]| certificates.iter().map(|der| CertificateDer::from(der.as_bytes().to_vec())).collect();
    // The crate overwrites its copy of the key when the next message takes its place.
    let key = PrivatePkcs8KeyDer::from(svid.private_key().as_bytes().to_vec());
    let roots: Vec<_> = ders(roots(given, svid));
    if roots.is_empty() {
        return Err(CertError::Empty(CertPart::Roots));
    }
    WorkloadCert::from_der(ders(svid.cert_chain()), key.into(), roots)
}

#[cfg(test)]
mod tests;
