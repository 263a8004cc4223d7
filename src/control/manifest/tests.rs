//! Tests of the manifest source through its public face: text in, resources and findings out.

mod istio_kinds;
mod kube_kinds;
mod last_good;
mod oracle;
mod owns;
mod pieces;
mod policies;
mod rounds;
mod routes;
mod running;
mod watching;
mod yaml_files;

use super::{Batch, Config, ManifestSource, Owns, load};
use crate::{
    model::{Mesh, Resource, ResourceKey},
    state::Change,
};
use std::{fs, path::PathBuf};
use tempfile::TempDir;

const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews}]
  rules: [{backendRefs: [{name: reviews, port: 80}]}]
";

const DENY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p}
spec:
  targetRefs: [{kind: Service, name: reviews}]
  action: DENY
  rules: [{to: [{operation: {methods: [DELETE]}}]}]
";

const REVIEWS_KEY: &str = "default/reviews.default.svc.cluster.local";

/// A directory of manifests.
struct Dir {
    dir: TempDir,
}

impl Dir {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn with(name: &str, text: &str) -> Self {
        let dir = Self::new();
        dir.write(name, text);
        dir
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn config(&self) -> Config {
        Config {
            paths: vec![self.dir.path().to_owned()],
            cluster_domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
            lenient: false,
            owns: Owns::Everything,
        }
    }

    fn source(&self) -> ManifestSource {
        ManifestSource::new(self.config())
    }

    /// Findings without the directory's name.
    fn texts(&self, findings: &[super::Located]) -> Vec<String> {
        let prefix = format!("{}/", self.dir.path().display());
        findings.iter().map(|f| f.to_string().replace(&prefix, "")).collect()
    }
}

/// The mesh of one file, which must be without findings.
fn mesh(text: &str) -> Mesh {
    let dir = Dir::with("m.yaml", text);
    let loaded = load(dir.config());
    assert_eq!(dir.texts(&loaded.findings), Vec::<String>::new(), "in\n{text}");
    loaded.mesh
}

/// The findings of one file, without its name.
fn findings(text: &str) -> Vec<String> {
    let dir = Dir::with("m.yaml", text);
    dir.texts(&load(dir.config()).findings).iter().map(|f| f.replace("m.yaml:", "")).collect()
}

/// Each row: a manifest and its findings.
#[track_caller]
fn assert_findings(rows: &[(&str, &[&str])]) {
    for (text, expected) in rows {
        assert_eq!(findings(text), *expected, "in\n{text}");
    }
}

/// `+KEY` and `-KEY` of a batch's changes.
fn keys(batch: &Batch) -> Vec<String> {
    let word = |key: &ResourceKey| match key {
        ResourceKey::Namespace(name) | ResourceKey::Workload(name) => name.to_string(),
        ResourceKey::Service(key) => key.to_string(),
        ResourceKey::Endpoints(id) => id.to_string(),
        ResourceKey::Waypoint(name) | ResourceKey::Route(name) | ResourceKey::Policy(name) => name.to_string(),
    };
    let change = |change: &Change| match change {
        Change::Upsert(resource) => format!("+{}", word(&resource.key())),
        Change::Remove(key) => format!("-{}", word(key)),
    };
    batch.changes.iter().map(change).collect()
}

/// The policy among a batch's upserts.
fn policy(batch: &Batch) -> &crate::model::AuthorizationPolicy {
    let policy = |change: &'_ Change| match change {
        Change::Upsert(Resource::Policy(_)) => true,
        Change::Upsert(_) | Change::Remove(_) => false,
    };
    match batch.changes.iter().find(|c| policy(c)) {
        Some(Change::Upsert(Resource::Policy(policy))) => policy,
        _ => panic!("no policy in {:?}", batch.changes),
    }
}

/// A Service `reviews` in `default` with port 80.
const REVIEWS: &str = "\
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {ports: [{name: http, port: 80}]}
";
