//! Manifests beside a control plane that owns services and workloads.

use super::*;
use crate::model::{Parent, PolicyTarget, ResourceName, TargetRef};

impl Dir {
    fn policy_only(&self) -> Config {
        Config { owns: Owns::Policy, ..self.config() }
    }
}

fn owned(text: &str) -> (Mesh, Vec<String>) {
    let dir = Dir::with("m.yaml", text);
    let loaded = load(dir.policy_only());
    let findings = dir.texts(&loaded.findings).iter().map(|f| f.replace("m.yaml:", "")).collect();
    (loaded.mesh, findings)
}

#[test]
fn what_the_control_plane_owns_is_told_of_and_not_published() {
    let text = include_str!("all_kinds.yaml").replace(", sectionName: grpc-web-x", "");
    let (mesh, findings) = owned(&text.replace("name: bookinfo\n  labels: {", "name: bookinfo\n  labels: {team: a, "));
    let no_effect = "this kind comes from the control plane; the manifest has no effect";
    let expected = [
        format!("21:1: warning: Service bookinfo/reviews: {no_effect}"),
        format!("32:1: warning: EndpointSlice bookinfo/reviews-x: {no_effect}"),
        format!("42:1: warning: Pod bookinfo/reviews-v1-abc-1: {no_effect}"),
        format!("60:1: warning: ServiceEntry bookinfo/external: {no_effect}"),
        format!("71:1: warning: WorkloadEntry bookinfo/vm: {no_effect}"),
    ];
    assert_eq!(findings, expected);
    assert_eq!((mesh.services.len(), mesh.endpoints.len(), mesh.workloads.len()), (0, 0, 0));
    assert_eq!((mesh.namespaces.len(), mesh.waypoints.len(), mesh.routes.len(), mesh.policies.len()), (1, 1, 1, 1));
    // Whose hosts those are is known where services are.
    let external = ResourceName::new("bookinfo", "external");
    let route = mesh.routes.values().next().unwrap();
    assert!(route.parents.contains(&Parent::ServiceEntry { entry: external.clone(), port: None }), "{:?}", route.parents);
    assert_eq!(route.parents.len(), 5);
    let PolicyTarget::Refs(refs) = &mesh.policies.values().next().unwrap().target else { panic!("it has targets") };
    assert!(refs.contains(&TargetRef::ServiceEntry(external)), "{refs:?}");
    assert_eq!(refs.len(), 3);
}

#[test]
fn errors_are_errors_whoever_owns_the_kind() {
    let (mesh, findings) = owned(&REVIEWS.replace("port: 80}", "port: 0}"));
    let expected = [
        "1:1: warning: Service default/reviews: this kind comes from the control plane; the manifest has no effect",
        "4:35: error: Service default/reviews: spec.ports[0].port: port 0 is not between 1 and 65535",
    ];
    assert_eq!(findings, expected);
    assert!(mesh.services.is_empty());
}

#[test]
fn references_to_what_the_control_plane_owns_are_not_missed() {
    let parent = |parent: &str| ROUTE.replace("{group: '', kind: Service, name: reviews}", parent);
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio.io/use-waypoint: w}}\n";
    let hostname = ROUTE.replace("{name: reviews, port: 80}", "{group: networking.istio.io, kind: Hostname, name: x.example, port: 80}");
    for text in [
        ROUTE,
        DENY,
        &parent("{group: '', kind: Service, name: reviews, port: 9}"),
        &parent("{group: networking.istio.io, kind: ServiceEntry, name: e}"),
        // The Gateway of a waypoint that a control plane places need not be here.
        &parent("{name: waypoint}"),
        &hostname,
        namespace,
    ] {
        let (mesh, found) = owned(text);
        assert_eq!(found, Vec::<String>::new(), "{text}");
        assert_eq!(mesh.routes.len() + mesh.policies.len() + mesh.namespaces.len(), 1, "{text}");
        // Where manifests own everything, all but the policy are at fault.
        assert_eq!(findings(text).is_empty(), text == DENY, "{text}");
    }
}

#[test]
fn a_reference_that_nobody_can_follow_is_refused() {
    let section = ROUTE.replace("name: reviews}]\n", "name: reviews, sectionName: http}]\n");
    let (mesh, findings) = owned(&section);
    let expected = [
        "5:71: error: HTTPRoute default/r: spec.parentRefs[0].sectionName: port \"http\" is not known by name: services come from the control plane; refer to it by port",
    ];
    assert_eq!(findings, expected);
    assert!(mesh.routes.is_empty());
    // A Gateway that is here is held against the route, as ever.
    let gateway = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: w, namespace: other}\nspec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n";
    let foreign = ROUTE.replace("{group: '', kind: Service, name: reviews}", "{name: w, namespace: other}") + gateway;
    let (mesh, findings) = owned(&foreign);
    let expected = ["5:23: error: HTTPRoute default/r: spec.parentRefs[0].name: Gateway other/w does not allow namespace default"];
    assert_eq!((findings, mesh.routes.len()), (expected.map(str::to_owned).to_vec(), 0));
}

#[test]
fn an_unreadable_policy_for_a_service_entry_denies_that_entry() {
    let targets = "targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: e}]";
    let (mesh, findings) = owned(&DENY.replace("targetRefs: [{kind: Service, name: reviews}]", targets).replace("DENY", "DENIED"));
    assert_eq!(findings.len(), 1, "{findings:?}");
    let policy = mesh.policies.values().next().unwrap();
    let entry = TargetRef::ServiceEntry(ResourceName::new("default", "e"));
    assert_eq!((&policy.target, policy.invalid.is_some()), (&PolicyTarget::Refs(vec![entry]), true));
}

#[test]
fn a_service_that_appears_in_the_files_changes_nothing() {
    let dir = Dir::with("route.yaml", ROUTE);
    let mut source = ManifestSource::new(dir.policy_only());
    assert_eq!(keys(&source.poll().unwrap()), ["+default/r"]);
    dir.write("service.yaml", REVIEWS);
    let batch = source.poll().unwrap();
    assert_eq!((keys(&batch), batch.fresh.len(), batch.rejected), (Vec::new(), 1, 0));
    dir.write("route.yaml", &ROUTE.replace("port: 80", "port: 81"));
    let batch = source.poll().unwrap();
    assert_eq!((keys(&batch), batch.fresh.len(), batch.findings.len()), (vec!["+default/r".to_owned()], 0, 1), "told once");
}
