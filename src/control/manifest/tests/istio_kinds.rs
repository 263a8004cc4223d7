use super::*;
use crate::model::{Kind, ResourceId, TunnelProtocol};

fn entry(spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e}}\nspec:\n{spec}")
}

const BASE: &str = "  resolution: STATIC\n  ports: [{number: 80, name: http, protocol: HTTP}]\n";

#[test]
fn a_service_entry_becomes_a_service_for_each_host() {
    let mesh = mesh(include_str!("all_kinds.yaml").split("---").nth(5).unwrap());
    let hosts: Vec<_> = mesh.services.keys().map(|k| k.hostname.as_str()).collect();
    assert_eq!(hosts, ["api.example.com", "www.example.com"]);
    assert!(mesh.services.values().all(|s| s.external));
    let endpoints = &mesh.endpoints[&ResourceId::new(Kind::ServiceEntry, "bookinfo", "external/api.example.com")];
    assert_eq!(endpoints.endpoints[0].ports, [("http".into(), 8081), ("tls".into(), 443)]);
    let uid = endpoints.endpoints[0].workload.clone().unwrap();
    assert_eq!(&*uid, "Kubernetes/networking.istio.io/ServiceEntry/bookinfo/external/192.0.2.1");
    assert_eq!(&*mesh.workloads[&uid].locality.zone, "a");
}

#[test]
fn a_workload_entry_becomes_a_workload() {
    let mesh = mesh(include_str!("all_kinds.yaml").split("---").nth(6).unwrap());
    let workload = &mesh.workloads["Kubernetes/networking.istio.io/WorkloadEntry/bookinfo/vm"];
    assert_eq!(workload.identity.as_str(), "spiffe://cluster.local/ns/bookinfo/sa/vm");
    assert_eq!(workload.protocol, TunnelProtocol::Hbone);
    assert_eq!(workload.ports, [("http".into(), 8080)]);
}

#[test]
fn wrong_service_entries_are_refused() {
    let rows: &[(String, &[&str])] = &[
        (
            format!("{BASE}  hosts: ['*.example.com']\n"),
            &["7:11: error: ServiceEntry default/e: spec.hosts[0]: not implemented: wildcard hosts"],
        ),
        (
            "  resolution: DNS\n  ports: [{number: 80, name: http}]\n  hosts: [a.example]\n".into(),
            &["5:15: error: ServiceEntry default/e: spec.resolution: not implemented: resolution by DNS; only STATIC endpoints are served"],
        ),
        (
            "  ports: [{number: 80, name: http}]\n  hosts: [a.example]\n".into(),
            &["4:1: error: ServiceEntry default/e: spec.resolution: not implemented: resolution NONE; only STATIC endpoints are served"],
        ),
        (
            format!("{BASE}  hosts: [a.example]\n  addresses: [10.0.0.0/8, 10.0.0.1/32]\n"),
            &["8:15: error: ServiceEntry default/e: spec.addresses[0]: not implemented: address ranges"],
        ),
        (
            format!("{BASE}  hosts: [a.example]\n  endpoints: [{{address: db.example}}]\n"),
            &[
                "8:25: error: ServiceEntry default/e: spec.endpoints[0].address: not implemented: \"db.example\" is not an IP address, and only static endpoints are served",
            ],
        ),
        (
            format!("{BASE}  hosts: [a.example]\n  endpoints: [{{address: 10.0.0.1, ports: {{web: 80}}}}]\n"),
            &["8:48: error: ServiceEntry default/e: spec.endpoints[0].ports.web: the entry has no port named \"web\""],
        ),
        (
            format!("{BASE}  hosts: [a.example]\n  exportTo: ['.']\n  host: x\n"),
            &[
                "8:3: warning: ServiceEntry default/e: spec.exportTo: visibility is not supported; every namespace sees this service",
                "9:3: error: ServiceEntry default/e: spec.host: unknown field",
            ],
        ),
        (
            "  resolution: STATIC\n  hosts: [a.example]\n  ports: [{number: 80, name: a, protocol: SPDY}]\n".into(),
            &["7:43: error: ServiceEntry default/e: spec.ports[0].protocol: unknown protocol \"SPDY\""],
        ),
    ];
    for (spec, expected) in rows {
        assert_eq!(findings(&entry(spec)), *expected, "{spec}");
    }
}

#[test]
fn wrong_workload_entries_are_refused() {
    let entry = |spec: &str| format!("apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: e}}\n{spec}");
    assert_findings(&[
        (&entry(""), &["1:1: error: WorkloadEntry default/e: spec: spec is required"]),
        (&entry("spec: {}\n"), &["4:1: error: WorkloadEntry default/e: spec.address: address is required"]),
        (
            &entry("spec: {address: 10.0.0.1, ports: {http: 70000}}\n"),
            &["4:41: error: WorkloadEntry default/e: spec.ports.http: port 70000 is not between 1 and 65535"],
        ),
    ]);
}

#[test]
fn two_entries_cannot_declare_one_host() {
    let text = entry(&format!("{BASE}  hosts: [a.example]\n"))
        + "---\n"
        + &entry(&format!("{BASE}  hosts: [a.example]\n")).replace("name: e}", "name: f}");
    assert_findings(&[(&text, &["9:1: error: ServiceEntry default/f: host default/a.example is already declared by another resource"])]);
}
