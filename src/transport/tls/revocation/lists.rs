//! What lists say of a chain.

use super::{super::policy::algorithms, ContentError, Revoked};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject},
};
use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};
use webpki::{CertRevocationList, EndEntityCert, OwnedCertRevocationList};
use x509_parser::{asn1_rs::Any, prelude::FromDer};

/// Verdicts that a list remembers. A list has one signer; peers can make up others.
const REMEMBERED: usize = 8;

/// The lists of a file, by who issued them.
#[derive(Debug, Default)]
pub(super) struct Lists(HashMap<Box<[u8]>, Vec<List>>);

#[derive(Debug)]
struct List {
    der: CertificateRevocationListDer<'static>,
    parsed: CertRevocationList<'static>,
    issuer: String,
    /// Seconds since 1970.
    next_update: Option<i64>,
    is_told: AtomicBool,
    /// Which public keys have signed it, and which have not.
    signers: Mutex<Vec<(Box<[u8]>, bool)>>,
}

impl Lists {
    pub(super) fn read(content: &[u8]) -> Result<Self, ContentError> {
        let mut lists = Self::default();
        for (at, der) in split(content)?.into_iter().enumerate() {
            let list = List::read(der).map_err(|source| ContentError::List { number: at + 1, source })?;
            lists.0.entry(list.parsed.issuer().into()).or_default().push(list);
        }
        Ok(lists)
    }

    pub(super) fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Warns, once for each list, of those whose successor should have come by now.
    pub(super) fn warn_expired(&self, now: SystemTime) {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        for list in self.0.values().flatten() {
            let is_over = list.next_update.is_some_and(|until| u64::try_from(until).is_ok_and(|until| until <= now));
            if is_over && !list.is_told.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    issuer = list.issuer,
                    next_update = list.next_update,
                    "a certificate revocation list has expired: it is still used"
                );
            }
        }
    }

    /// The first certificate of a chain that is revoked.
    pub(super) fn find<'a>(&self, chain: impl IntoIterator<Item = &'a CertificateDer<'a>>, anchors: &RootCertStore) -> Option<Revoked> {
        if self.0.is_empty() {
            return None;
        }
        let chain: Vec<_> = chain.into_iter().filter_map(|der| Some((der, EndEntityCert::try_from(der).ok()?))).collect();
        chain.iter().find(|(der, cert)| self.is_revoked(der, cert, &chain, anchors)).map(|(der, _)| Revoked::of(der))
    }

    fn is_revoked(
        &self,
        der: &CertificateDer<'_>,
        cert: &EndEntityCert<'_>,
        chain: &[(&CertificateDer<'_>, EndEntityCert<'_>)],
        anchors: &RootCertStore,
    ) -> bool {
        let lists = self.0.get(cert.issuer()).map(Vec::as_slice).unwrap_or_default();
        lists.iter().filter(|list| list.names(cert.serial())).any(|list| {
            let presented = chain.iter().filter(|(_, other)| other.subject() == cert.issuer());
            let presented = presented.filter_map(|(_, other)| value(&other.subject_public_key_info()).map(|key| Cow::Owned(key.to_vec())));
            let known = anchors.roots.iter().filter(|anchor| anchor.subject.as_ref() == cert.issuer());
            let known = known.map(|anchor| Cow::Borrowed(anchor.subject_public_key_info.as_ref()));
            presented.chain(known).any(|key| list.is_signed_by(&key) && is_signed_by(der, &key))
        })
    }
}

/// Whether a certificate can be looked up at all.
pub(super) fn is_readable(der: &CertificateDer<'_>) -> bool {
    EndEntityCert::try_from(der).is_ok()
}

/// The lists in a file, each in DER.
fn split(content: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, ContentError> {
    if content.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    if memchr::memmem::find(content, b"-----BEGIN").is_none() {
        return Ok(vec![content.to_vec().into()]);
    }
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(content).collect();
    let lists = lists.map_err(ContentError::Pem)?;
    if lists.is_empty() { Err(ContentError::NoList) } else { Ok(lists) }
}

impl List {
    fn read(der: CertificateRevocationListDer<'static>) -> Result<Self, webpki::Error> {
        let parsed = OwnedCertRevocationList::from_der(&der)?.into();
        // For people only: what cannot be read here is no reason to do without the list.
        let shown = x509_parser::parse_x509_crl(&der).ok().map(|(_, list)| list);
        let issuer = shown.as_ref().map(|list| list.issuer().to_string()).unwrap_or_default();
        let next_update = shown.and_then(|list| list.next_update()).map(|time| time.timestamp());
        Ok(Self { der, parsed, issuer, next_update, is_told: AtomicBool::new(false), signers: Mutex::default() })
    }

    /// Whether it names a serial number. Entries were read when the list was: there is no error any more.
    fn names(&self, serial: &[u8]) -> bool {
        self.parsed.find_serial(serial).is_ok_and(|found| found.is_some())
    }

    fn is_signed_by(&self, key: &[u8]) -> bool {
        let known = |signers: &[(Box<[u8]>, bool)]| signers.iter().find(|(signer, _)| **signer == *key).map(|(_, verdict)| *verdict);
        if let Some(verdict) = known(&self.signers.lock().unwrap_or_else(PoisonError::into_inner)) {
            return verdict;
        }
        let verdict = is_signed_by(&self.der, key);
        let mut signers = self.signers.lock().unwrap_or_else(PoisonError::into_inner);
        if signers.len() < REMEMBERED {
            signers.push((key.into(), verdict));
        }
        verdict
    }
}

impl Revoked {
    fn of(der: &CertificateDer<'_>) -> Self {
        let shown = x509_parser::parse_x509_certificate(der).ok().map(|(_, cert)| cert);
        let serial = shown.as_ref().map(|cert| cert.serial.to_string()).unwrap_or_default();
        Self { serial, issuer: shown.map(|cert| cert.issuer().to_string()).unwrap_or_default() }
    }
}

/// Whether a certificate or a list of revoked ones (both in DER) is signed with a key (the value of its
/// `SubjectPublicKeyInfo`).
fn is_signed_by(der: &[u8], key: &[u8]) -> bool {
    let Some((signed, [algorithm, signature])) = parts(der) else { return false };
    let Some([key_algorithm, key]) = pair(key) else { return false };
    let Some((signature, key)) = bits(signature).zip(bits(key)) else { return false };
    algorithms().all.iter().any(|known| {
        known.signature_alg_id().as_ref() == algorithm
            && known.public_key_alg_id().as_ref() == key_algorithm
            && known.verify_signature(key, signed, signature).is_ok()
    })
}

/// What is signed of a signed thing, with its tag, and then the values of algorithm and signature
/// (RFC 5280, 4.1.1 and 5.1.1).
fn parts(der: &[u8]) -> Option<(&[u8], [&[u8]; 2])> {
    let whole = value(der)?;
    let (rest, _) = Any::from_der(whole).ok()?;
    let signed = &whole[..whole.len() - rest.len()];
    Some((signed, pair(rest)?))
}

/// What is inside of one element.
fn value(der: &[u8]) -> Option<&[u8]> {
    Any::from_der(der).ok().map(|(_, any)| any.data)
}

/// What is inside of the first two of several elements.
fn pair(der: &[u8]) -> Option<[&[u8]; 2]> {
    let (rest, first) = Any::from_der(der).ok()?;
    let (_, second) = Any::from_der(rest).ok()?;
    Some([first.data, second.data])
}

/// The bits of a bit string of whole bytes.
fn bits(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(&[0])
}
