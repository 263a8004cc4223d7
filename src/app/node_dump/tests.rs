use super::*;
use crate::{
    cert::{CertState, DevCa},
    control::manifest,
    model::Identity,
    runtime::{Readiness, drain},
    state::{NodeCompiler, Own},
    transport::WorkloadCert,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{sync::Arc, time::Duration};

const MANIFESTS: &str = include_str!("tests/mesh.yaml");

/// The dump of a node on which this mesh is served.
async fn dumped(certificates: &[CertStatus], pods: Option<&BTreeMap<Name, PodState>>) -> Value {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mesh.yaml"), MANIFESTS).unwrap();
    let config = manifest::Config {
        paths: vec![dir.path().to_owned()],
        cluster_domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
        root_namespace: "istio-system".into(),
        lenient: false,
        owns: manifest::Owns::Everything,
    };
    let (_trigger, watch) = drain::new();
    let own = Own::Workloads(["Kubernetes//Pod/shop/cart-1".into()].into());
    let mesh = crate::app::MeshSource::open(config).unwrap().follow(NodeCompiler::new(own, "istio-system"), &watch, Readiness::new());
    let facts = NodeFacts {
        network: "net1".into(),
        root_namespace: "istio-system".into(),
        cluster_domain: "cluster.local".into(),
        config: json!({ "proxyMode": "Shared" }),
    };
    let snapshot = &*mesh.handle.load();
    let dump = NodeDump { facts: &facts, snapshot, policies: &mesh.policies, findings: &mesh.findings, certificates, pods };
    serde_json::from_str(&dump.text()).unwrap()
}

#[tokio::test]
async fn the_dump_is_what_istioctl_reads() {
    let dump = dumped(&[], None).await;
    let text = format!("{dump:#}\n").replace(concat!("\"version\": \"", env!("CARGO_PKG_VERSION")), "\"version\": \"VERSION");
    assert_eq!(text, include_str!("tests/dump.json"), "the golden file differs from:\n{text}");
    assert!(dump.get("workloadState").is_none(), "only in shared mode");
}

#[tokio::test]
async fn pods_and_certificates_are_shown_by_their_state() {
    let identity = |account: &str| Identity::new("cluster.local", "shop", account).unwrap();
    let ca = DevCa::create("cluster.local", Duration::from_secs(7200)).unwrap();
    let issued = ca.issue(&identity("cart"), Duration::from_secs(3600)).unwrap();
    let cert = WorkloadCert::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), issued.roots_pem.as_bytes()).unwrap();
    let serial = cert.serial().to_owned();
    let statuses = [
        CertStatus { identity: identity("cart"), state: CertState::Available(Arc::new(cert)) },
        CertStatus { identity: identity("new"), state: CertState::Initializing },
        CertStatus { identity: identity("other"), state: CertState::Unavailable("no such account".into()) },
    ];
    let dump = dumped(&statuses, Some(&BTreeMap::new())).await;
    assert_eq!(dump["workloadState"], json!({}));
    let states: Vec<_> = (0..3).map(|n| dump["certificates"][n]["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["Available", "Initializing", "Unavailable: no such account"]);
    let shown = &dump["certificates"][0];
    assert_eq!(shown["identity"], "spiffe://cluster.local/ns/shop/sa/cart");
    let (leaf, root) = (&shown["certChain"][0], &shown["rootCerts"][0]);
    assert_eq!(leaf["serialNumber"], serial);
    let pem = |cert: &Value| String::from_utf8(STANDARD.decode(cert["pem"].as_str().unwrap()).unwrap()).unwrap();
    assert_eq!(
        pem(leaf).replace('\r', ""),
        issued.chain_pem.replace('\r', "").split_inclusive("-----END CERTIFICATE-----\n").next().unwrap()
    );
    assert_eq!(pem(root).trim(), issued.roots_pem.replace('\r', "").trim());
    for (cert, key) in [(leaf, "validFrom"), (leaf, "expirationTime"), (root, "expirationTime")] {
        let date = cert[key].as_str().unwrap();
        assert!(date.len() == 20 && date.ends_with('Z') && date.as_bytes()[10] == b'T', "{key}: {date}");
    }
    assert!(!format!("{dump}").contains("PRIVATE"));
}
