//! `CreateCertificate` (contract, 5).

use super::{
    authority::{Authority, SignError},
    faults::Certificates,
    observed::CertificateRequest,
    shared::Shared,
};
use crate::{
    model::Identity,
    proto::ca::{IstioCertificateRequest, IstioCertificateResponse, istio_certificate_service_server::IstioCertificateService},
};
use prost_types::value::Kind;
use std::{sync::Arc, time::Duration};
use tonic::{Request, Response, Status};

/// The field of the metadata that names another than the caller.
const IMPERSONATED: &str = "ImpersonatedIdentity";

/// The service.
#[derive(Debug, Clone)]
pub(super) struct Ca(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl IstioCertificateService for Ca {
    async fn create_certificate(&self, request: Request<IstioCertificateRequest>) -> Result<Response<IstioCertificateResponse>, Status> {
        let (token, headers) = self.0.admit(request.metadata())?;
        let request = request.into_inner();
        let validity = Duration::from_secs(u64::try_from(request.validity_duration).unwrap_or_default());
        let impersonated = impersonated(&request);
        let identity = match &impersonated {
            Some(name) => name.parse::<Identity>().map_err(SignError::from),
            None => Authority::requested(&request.csr),
        };
        self.0.observe(|observed| {
            observed.certificates.push(CertificateRequest {
                headers,
                token: token.text.clone(),
                csr: request.csr.clone(),
                identity: identity.as_ref().ok().cloned(),
                impersonated: impersonated.clone(),
                validity,
            });
        });
        if impersonated.is_some() && !token.may_impersonate {
            return Err(Status::unauthenticated("this token is not good for the identities of others"));
        }
        let identity = identity.map_err(|error| refusal(&error))?;
        let chain = self.answer(&request.csr, &identity, validity).await?;
        Ok(Response::new(IstioCertificateResponse { cert_chain: chain }))
    }
}

impl Ca {
    async fn answer(&self, csr: &str, identity: &Identity, validity: Duration) -> Result<Vec<String>, Status> {
        let mut script = self.0.faults.script();
        let script = script.wait_for(|script| script.certificates != Certificates::Hold).await;
        let fault = script.map_err(|_| Status::unavailable("the control plane ends"))?.certificates.clone();
        let sign = |identity: &Identity| self.0.authority().sign(csr, identity, validity).map_err(|error| refusal(&error));
        match fault {
            Certificates::Sign | Certificates::Hold => sign(identity),
            Certificates::Refuse(code, message) => Err(Status::new(code, message)),
            Certificates::Empty => Ok(Vec::new()),
            Certificates::LeafOnly => sign(identity).map(|mut chain| {
                chain.truncate(1);
                chain
            }),
            Certificates::For(another) => sign(&another),
        }
    }
}

fn refusal(error: &SignError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn impersonated(request: &IstioCertificateRequest) -> Option<String> {
    match request.metadata.as_ref()?.fields.get(IMPERSONATED)?.kind.as_ref()? {
        Kind::StringValue(name) => Some(name.clone()),
        Kind::NullValue(_) | Kind::NumberValue(_) | Kind::BoolValue(_) | Kind::StructValue(_) | Kind::ListValue(_) => None,
    }
}
