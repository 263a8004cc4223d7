use super::*;
use crate::control::manifest::{Config, Owns};

fn check(text: &str) -> Vec<Located> {
    check_owning(Owns::Everything, text)
}

fn check_owning(owns: Owns, text: &str) -> Vec<Located> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("m.yaml"), text).unwrap();
    let findings = report(Config {
        paths: vec![dir.path().to_owned()],
        cluster_domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
        root_namespace: "istio-system".into(),
        lenient: false,
        owns,
    });
    let name = |f: Located| Located { file: "m.yaml".into(), ..f };
    findings.into_iter().map(name).collect()
}

fn texts(text: &str) -> Vec<String> {
    check(text).iter().map(|f| f.to_string().replace("m.yaml:", "")).collect()
}

fn service(name: &str, spec: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: http, port: 80}}]{spec}}}\n")
}

fn pod(name: &str, account: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: a}}}}\nspec: {{serviceAccountName: {account}, containers: []}}\nstatus: {{podIP: 10.0.0.1}}\n"
    )
}

/// A route in front of everything else, so that its lines are known: rules start in line 7.
fn route(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: a}}]\n  rules:\n{rules}"
    )
}

fn served() -> String {
    service("a", ", selector: {app: a}") + &pod("p", "x")
}

#[test]
fn a_healthy_mesh_has_no_findings() {
    assert_eq!(texts(&(route("  - backendRefs: [{name: a, port: 80}]\n") + &served())), Vec::<String>::new());
}

#[test]
fn a_rule_behind_one_that_takes_all_is_told() {
    let shadowed = |earlier: &str, later: &str| texts(&(route(&format!("  - matches: [{earlier}]\n  - matches: [{later}]\n")) + &served()));
    let at_second = ["8:5: warning: HTTPRoute default/r: spec.rules[1]: never reached: everything it matches is taken by spec.rules[0]"];
    let yes = [
        ("{}", "{}"),
        ("{path: {value: /a}}", "{path: {value: /a}}"),
        ("{path: {value: /a}}", "{path: {value: /a}}, {path: {value: /a}}"),
        ("{path: {type: Exact, value: /a}}", "{path: {type: Exact, value: /a}}"),
        ("{headers: [{name: a, value: b}, {name: c, value: d}]}", "{headers: [{name: c, value: d}, {name: a, value: b}]}"),
    ];
    for (earlier, later) in yes {
        assert_eq!(shadowed(earlier, later), at_second, "{earlier} before {later}");
    }
    let no = [
        // Precedence, not the order in the list, decides.
        ("{path: {value: /}}", "{path: {value: /a}}"),
        ("{}", "{method: GET}"),
        ("{path: {value: /a}}", "{path: {type: Exact, value: /a}}"),
        ("{path: {value: /a}}", "{path: {value: /a}}, {path: {value: /b}}"),
        ("{headers: [{name: a, value: b}]}", "{headers: [{name: a, value: c}]}"),
    ];
    for (earlier, later) in no {
        assert_eq!(shadowed(earlier, later), Vec::<String>::new(), "{earlier} before {later}");
    }
}

#[test]
fn a_route_behind_another_is_told_by_name() {
    let text = route("  - {}\n") + "---\n" + &route("  - {}\n").replace("name: r}", "name: q}") + &served();
    let expected = [
        "7:5: warning: HTTPRoute default/r: spec.rules[0]: never reached: everything it matches is taken by spec.rules[0] of HTTPRoute default/q",
    ];
    assert_eq!(texts(&text), expected);
    // One port is not all ports.
    let text = text.replacen("name: a}]", "name: a, port: 80}]", 2);
    assert_eq!(texts(&text).len(), 1);
    let other_port =
        text.replacen("port: 80}]\n", "port: 81}]\n", 1).replace("{name: http, port: 80}", "{name: http, port: 80}, {name: x, port: 81}");
    assert_eq!(texts(&other_port), Vec::<String>::new());
}

#[test]
fn backends_without_endpoints_are_told() {
    let backend = route("  - backendRefs: [{name: a, port: 80}]\n");
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: e, labels: {kubernetes.io/service-name: a}}\naddressType: IPv4\nendpoints: ";
    let told = [
        "7:19: warning: HTTPRoute default/r: spec.rules[0].backendRefs[0]: service default/a.default.svc.cluster.local has no ready endpoints: its share is answered with 503",
    ];
    let ready = format!("{slice}[{{addresses: [10.0.0.1]}}]\n");
    let not_ready = format!("{slice}[{{addresses: [10.0.0.1], conditions: {{ready: false}}}}]\n");
    let rows: [(String, bool); 8] = [
        (service("a", ""), true),
        (service("a", ", selector: {app: a}"), true),
        (served(), false),
        (service("a", ", selector: {app: b}") + &pod("p", "x"), true),
        (service("a", "") + &ready, false),
        (service("a", "") + &not_ready, true),
        (service("a", ", publishNotReadyAddresses: true") + &not_ready, false),
        // A list counts, not what the selector would select.
        (served() + &format!("{slice}[]\n"), true),
    ];
    for (rest, is_told) in rows {
        assert_eq!(texts(&(backend.clone() + &rest)) == told, is_told, "{rest}: {:?}", texts(&(backend.clone() + &rest)));
    }
    // Who gets nothing needs nothing.
    let idle = route("  - backendRefs: [{name: b, port: 80, weight: 0}, {name: a, port: 80}]\n") + &served() + &service("b", "");
    assert_eq!(texts(&idle), Vec::<String>::new());
}

#[test]
fn weights_that_are_all_zero_are_told() {
    let text = route("  - backendRefs: [{name: a, port: 80, weight: 0}]\n") + &served();
    let expected =
        ["7:5: warning: HTTPRoute default/r: spec.rules[0].backendRefs: all weights are zero: every request is answered with 500"];
    assert_eq!(texts(&text), expected);
}

#[test]
fn policies_that_target_nothing_are_told() {
    let policy = |spec: &str| {
        format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\nspec:\n  {spec}\n{}", served())
    };
    let rows = [
        ("targetRefs: [{kind: Service, name: a}]", None),
        ("selector: {matchLabels: {app: a}}", None),
        ("{}", None),
        (
            "targetRefs: [{kind: Service, name: z}]",
            Some(
                "5:3: warning: AuthorizationPolicy default/p: spec.targetRefs: targets nothing: there is no service default/z.default.svc.cluster.local",
            ),
        ),
        (
            "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: w}]",
            Some("5:3: warning: AuthorizationPolicy default/p: spec.targetRefs: targets nothing: there is no waypoint default/w"),
        ),
        (
            "targetRefs: [{kind: ServiceEntry, group: networking.istio.io, name: e}]",
            Some("5:3: warning: AuthorizationPolicy default/p: spec.targetRefs: targets nothing: none of its targets exists"),
        ),
        (
            "selector: {matchLabels: {app: z}}",
            Some("5:3: warning: AuthorizationPolicy default/p: spec.selector: targets nothing: the selector selects no workload"),
        ),
    ];
    for (spec, expected) in rows {
        assert_eq!(texts(&policy(spec)), expected.into_iter().collect::<Vec<_>>(), "{spec}");
    }
}

#[test]
fn what_manifests_do_not_own_is_not_missed_in_them() {
    let targets = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec:\n  targetRefs: [{kind: Service, name: z}]\n";
    let selects = targets.replace("targetRefs: [{kind: Service, name: z}]", "selector: {matchLabels: {app: z}}");
    let leads = route("  - backendRefs: [{name: a, port: 80}]\n");
    for text in [targets, &selects, &leads] {
        assert_eq!(check_owning(Owns::Policy, text).iter().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new(), "{text}");
        assert_ne!(texts(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn a_service_bound_to_a_waypoint_for_workloads_is_told() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: s, labels: {istio.io/use-waypoint: w}}\nspec: {ports: [{port: 80}]}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: w, labels: {istio.io/waypoint-for: workload}}\nspec:\n  gatewayClassName: istio-waypoint\n  listeners: [{name: mesh, port: 15008, protocol: HBONE}]\n";
    let expected = [
        "3:53: warning: Service default/s: metadata.labels[\"istio.io/use-waypoint\"]: waypoint default/w does not take traffic addressed to services (istio.io/waypoint-for)",
    ];
    assert_eq!(texts(text), expected);
    assert_eq!(texts(&text.replace("for: workload", "for: all")), Vec::<String>::new());
}

#[test]
fn a_binding_to_a_gateway_that_is_no_waypoint_is_told() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: s, labels: {istio.io/use-waypoint: w}}\nspec: {ports: [{port: 80}]}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: w}\nspec:\n  gatewayClassName: nginx\n  listeners: [{name: web, port: 80, protocol: HTTP}]\n";
    let expected = [
        "3:53: warning: Service default/s: metadata.labels[\"istio.io/use-waypoint\"]: Gateway default/w is no waypoint (it needs a listener with port 15008 and protocol HBONE): ztunnels refuse this traffic",
        "6:1: warning: Gateway class \"nginx\" is not a waypoint class; skipped",
    ];
    assert_eq!(texts(text), expected);
}

#[test]
fn mixed_service_accounts_behind_a_route_are_told() {
    let by_account = route("  - backendRefs: [{name: a, port: 80}]\n").replace("kind: Service, name: a", "kind: ServiceAccount, name: x");
    assert_eq!(texts(&(by_account.clone() + &served())), Vec::<String>::new());
    let mixed = texts(&(by_account + &served() + &pod("q", "y")));
    let expected = [
        "5:16: warning: HTTPRoute default/r: spec.parentRefs[0]: service default/a.default.svc.cluster.local is also served by other service accounts than x: only a part of its requests takes this route",
    ];
    assert_eq!(mixed, expected);
}

#[test]
fn reports_are_written_as_text_and_as_json() {
    let findings =
        check("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\nspecs: {}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: a}\n");
    let mut text = Vec::new();
    assert_eq!(write(&findings, Output::Text, &mut text).unwrap(), EXIT_ERRORS);
    assert_eq!(
        String::from_utf8(text).unwrap(),
        "m.yaml:4:1: error: Namespace a: specs: unknown field\nm.yaml:6:1: warning: kind Secret (v1) is not used; skipped\n1 error, 1 warning\n"
    );
    let mut json = Vec::new();
    write(&findings, Output::Json, &mut json).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((&json["errors"], &json["warnings"]), (&1.into(), &1.into()));
    let expected = serde_json::json!({"file": "m.yaml", "line": 4, "column": 1, "severity": "error", "resource": "Namespace a", "field": "specs", "message": "unknown field"});
    assert_eq!(json["findings"][0], expected);
    assert_eq!(write(&findings[1..], Output::Text, &mut Vec::new()).unwrap(), 0);
}
