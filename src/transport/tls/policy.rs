//! What the process encrypts with, towards everyone: decided once.

use rustls::{
    SupportedProtocolVersion,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs},
    version::{TLS12, TLS13},
};
use std::sync::{Arc, LazyLock, OnceLock};

/// Which versions of TLS and which key exchanges are spoken, with the mesh and with the control plane
/// (contract, 1.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// TLS 1.2 besides 1.3.
    pub tls12: bool,
    /// No key exchange but the post-quantum hybrid X25519MLKEM768.
    pub pqc: bool,
}

/// Why a policy cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// TLS 1.2 has no post-quantum key exchange.
    #[error("TLS 1.2 has no post-quantum key exchange: it cannot be allowed where none but X25519MLKEM768 is")]
    Contradiction,
    /// Another one holds already.
    #[error("the TLS policy is settled: {held:?}, not {asked:?}")]
    Settled {
        /// The one that holds.
        held: Policy,
        /// The one that should.
        asked: Policy,
    },
}

/// The policy of the process, once there is one.
static SETTLED: OnceLock<Policy> = OnceLock::new();

/// Settles the policy of the process. Called before anything else here: the first use of TLS settles
/// the default one.
///
/// # Errors
/// See [`PolicyError`].
pub fn install(policy: Policy) -> Result<(), PolicyError> {
    settle(&SETTLED, policy)
}

fn settle(place: &OnceLock<Policy>, asked: Policy) -> Result<(), PolicyError> {
    if asked.tls12 && asked.pqc {
        return Err(PolicyError::Contradiction);
    }
    let held = *place.get_or_init(|| asked);
    if held == asked { Ok(()) } else { Err(PolicyError::Settled { held, asked }) }
}

/// The policy of the process.
pub(super) fn settled() -> Policy {
    *SETTLED.get_or_init(Policy::default)
}

/// What we encrypt with, towards everyone.
pub(in crate::transport) fn provider() -> Arc<CryptoProvider> {
    settled().provider()
}

/// The versions of TLS that we speak.
pub(in crate::transport) fn versions() -> &'static [&'static SupportedProtocolVersion] {
    settled().versions()
}

/// How certificates are signed that we believe, whatever the policy.
pub(super) fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
        LazyLock::new(|| aws_lc_rs::default_provider().signature_verification_algorithms);
    &ALGORITHMS
}

impl Policy {
    /// Istio's suites and groups, in its order; the post-quantum hybrid last, as only few peers know it.
    pub(super) fn provider(self) -> Arc<CryptoProvider> {
        use aws_lc_rs::{cipher_suite as suite, kx_group};
        const TLS13_SUITES: [rustls::SupportedCipherSuite; 2] = [suite::TLS13_AES_256_GCM_SHA384, suite::TLS13_AES_128_GCM_SHA256];
        const TLS12_SUITES: [rustls::SupportedCipherSuite; 4] = [
            suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ];
        let mut cipher_suites = TLS13_SUITES.to_vec();
        if self.tls12 {
            cipher_suites.extend(TLS12_SUITES);
        }
        let kx_groups = if self.pqc {
            vec![kx_group::X25519MLKEM768]
        } else {
            vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1, kx_group::X25519MLKEM768]
        };
        Arc::new(CryptoProvider { cipher_suites, kx_groups, ..aws_lc_rs::default_provider() })
    }

    pub(super) fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
        if self.tls12 { &BOTH } else { &BOTH[..1] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{CipherSuite as Suite, NamedGroup as Group};

    const TLS12: Policy = Policy { tls12: true, pqc: false };
    const PQC: Policy = Policy { tls12: false, pqc: true };

    #[test]
    fn the_first_policy_holds_and_another_is_refused() {
        let place = OnceLock::new();
        assert_eq!(settle(&place, Policy { tls12: true, pqc: true }), Err(PolicyError::Contradiction));
        assert_eq!(place.get(), None, "a refused policy settles nothing");
        assert_eq!(settle(&place, TLS12), Ok(()));
        assert_eq!(settle(&place, TLS12), Ok(()), "again");
        for asked in [Policy::default(), PQC] {
            assert_eq!(settle(&place, asked), Err(PolicyError::Settled { held: TLS12, asked }));
        }
    }

    #[test]
    fn each_policy_has_the_suites_groups_and_versions_of_the_contract() {
        let (new, old) = (
            [Suite::TLS13_AES_256_GCM_SHA384, Suite::TLS13_AES_128_GCM_SHA256],
            [
                Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                Suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            ],
        );
        let usual = [Group::X25519, Group::secp256r1, Group::secp384r1, Group::X25519MLKEM768];
        let cases = [
            (Policy::default(), new.to_vec(), usual.to_vec(), 1),
            (TLS12, [new.as_slice(), &old].concat(), usual.to_vec(), 2),
            (PQC, new.to_vec(), vec![Group::X25519MLKEM768], 1),
        ];
        for (policy, suites, groups, versions) in cases {
            let provider = policy.provider();
            assert_eq!(provider.cipher_suites.iter().map(|s| s.suite()).collect::<Vec<_>>(), suites, "{policy:?}");
            assert_eq!(provider.kx_groups.iter().map(|g| g.name()).collect::<Vec<_>>(), groups, "{policy:?}");
            assert_eq!(policy.versions().len(), versions, "{policy:?}");
        }
    }
}
