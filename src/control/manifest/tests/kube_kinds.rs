use super::*;
use crate::model::{
    AllowedNamespaces, AppProtocol, Health, Hostname, ServiceKey, TargetPort, TrafficType, TunnelProtocol, WaypointAddress,
    WaypointBinding, WorkloadType,
};

fn service(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec:\n{spec}")
}

fn pod(metadata: &str, rest: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p{metadata}}}\n{rest}")
}

#[test]
fn every_kind_of_a_whole_mesh_is_read() {
    let text = include_str!("all_kinds.yaml").replace("name: bookinfo\n  labels: {", "name: bookinfo\n  labels: {team: a, ");
    let mesh = mesh(&text);
    assert_eq!((mesh.namespaces.len(), mesh.services.len(), mesh.endpoints.len()), (1, 3, 3));
    assert_eq!((mesh.workloads.len(), mesh.waypoints.len(), mesh.routes.len(), mesh.policies.len()), (3, 1, 1, 1));
    let waypoint = mesh.waypoints.values().next().unwrap();
    assert_eq!((waypoint.traffic, waypoint.port, waypoint.service_account.as_deref()), (TrafficType::All, 15008, Some("bookinfo-reviews")));
    assert_eq!(waypoint.allowed, AllowedNamespaces::Selector([("team".into(), "a".into())].into()));
    let hostname = WaypointAddress::Hostname(Hostname::new("waypoint.bookinfo.svc.cluster.local"));
    assert_eq!(waypoint.addresses, [WaypointAddress::Ip("10.9.0.1".parse().unwrap()), hostname]);
    assert!(matches!(mesh.namespaces["bookinfo"].waypoint, WaypointBinding::To(_)));
}

#[test]
fn a_service_is_read() {
    let mesh = mesh(include_str!("all_kinds.yaml").split("---").nth(2).unwrap());
    let service = mesh.services.values().next().unwrap();
    let hostname = Hostname::new("reviews.bookinfo.svc.cluster.local");
    assert_eq!(service.key, ServiceKey { namespace: "bookinfo".into(), hostname });
    assert_eq!(service.vips, ["10.96.0.10", "fd00::10"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap()));
    assert_eq!(service.ports[0].target, TargetPort::Name("web".into()));
    assert_eq!(service.ports[1].target, TargetPort::Number(9081));
    assert_eq!(service.waypoint, WaypointBinding::None);
    assert_eq!(service.selector.as_ref().unwrap().len(), 1);
}

#[test]
fn the_protocol_of_a_port_follows_app_protocol_then_name_then_number() {
    let rows = [
        ("{port: 80}", AppProtocol::Unspecified),
        ("{port: 80, name: http}", AppProtocol::Http),
        ("{port: 80, name: http-web}", AppProtocol::Http),
        ("{port: 80, name: http2-web}", AppProtocol::Http2),
        ("{port: 80, name: HTTP}", AppProtocol::Http),
        ("{port: 80, name: httpx}", AppProtocol::Unspecified),
        ("{port: 80, name: grpc-a}", AppProtocol::Grpc),
        ("{port: 80, name: grpc-web-a}", AppProtocol::Http),
        ("{port: 80, name: https}", AppProtocol::Tls),
        ("{port: 80, name: tls-x}", AppProtocol::Tls),
        ("{port: 80, name: redis}", AppProtocol::Tcp),
        ("{port: 3306}", AppProtocol::Tcp),
        ("{port: 3306, name: http}", AppProtocol::Http),
        ("{port: 80, name: tcp, appProtocol: http}", AppProtocol::Http),
        ("{port: 80, name: http, appProtocol: kubernetes.io/h2c}", AppProtocol::Http2),
        ("{port: 80, name: tcp, appProtocol: kubernetes.io/ws}", AppProtocol::Http),
        ("{port: 80, name: http, appProtocol: kubernetes.io/wss}", AppProtocol::Tls),
        ("{port: 80, name: http, appProtocol: mine/own}", AppProtocol::Unspecified),
    ];
    for (port, expected) in rows {
        let mesh = mesh(&service(&format!("  ports: [{port}]\n")));
        assert_eq!(mesh.services.values().next().unwrap().ports[0].protocol, expected, "{port}");
    }
}

#[test]
fn a_headless_service_has_no_address() {
    let mesh = mesh(&service("  clusterIP: None\n  ports: [{port: 80}]\n"));
    assert!(mesh.services.values().next().unwrap().vips.is_empty());
}

#[test]
fn wrong_services_are_refused() {
    let rows: &[(&str, &[&str])] = &[
        ("  prots: []\n", &["5:3: error: Service default/s: spec.prots: unknown field"]),
        ("  ports: {}\n", &["5:3: error: Service default/s: spec.ports: invalid type: mapping, expected a sequence"]),
        (
            "  ports:\n  - port: http\n",
            &["6:11: error: Service default/s: spec.ports[0].port: invalid type: string \"http\", expected i32"],
        ),
        ("  ports: [{port: 0}]\n", &["5:18: error: Service default/s: spec.ports[0].port: port 0 is not between 1 and 65535"]),
        ("  ports: [{port: 65536}]\n", &["5:18: error: Service default/s: spec.ports[0].port: port 65536 is not between 1 and 65535"]),
        (
            "  ports: [{port: 1, name: a}, {port: 1, name: a}]\n",
            &[
                "5:38: error: Service default/s: spec.ports[1].port: port 1 is declared twice",
                "5:47: error: Service default/s: spec.ports[1].name: port name \"a\" is used twice",
            ],
        ),
        ("  clusterIP: ten\n", &["5:14: error: Service default/s: spec.clusterIP: \"ten\" is not an IP address"]),
        (
            "  ports: [{port: 53, protocol: UDP}]\n",
            &["5:32: warning: Service default/s: spec.ports[0].protocol: UDP is not served; port skipped"],
        ),
        (
            "  type: ExternalName\n  externalName: x.example\n",
            &["5:9: warning: Service default/s: spec.type: ExternalName is not supported; skipped"],
        ),
    ];
    for (spec, expected) in rows {
        assert_eq!(findings(&service(spec)), *expected, "{spec}");
    }
}

#[test]
fn a_pod_is_read() {
    let mesh = mesh(include_str!("all_kinds.yaml").split("---").nth(4).unwrap());
    let pod = &mesh.workloads["Kubernetes//Pod/bookinfo/reviews-v1-abc-1"];
    assert_eq!(pod.identity.as_str(), "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews");
    assert_eq!((pod.protocol, pod.health, pod.workload_type), (TunnelProtocol::Hbone, Health::Healthy, WorkloadType::Deployment));
    assert_eq!((&*pod.workload_name, &*pod.canonical_name, &*pod.canonical_revision), ("reviews-v1", "reviews", "v1"));
    assert_eq!(pod.ports, [("web".into(), 9080)]);
    assert_eq!(&*pod.node, "n1");
}

#[test]
fn readiness_of_a_pod() {
    let rows = [
        ("", Health::Healthy),
        ("status: {phase: Running}", Health::Healthy),
        ("status: {conditions: [{type: Ready, status: 'True'}]}", Health::Healthy),
        ("status: {conditions: [{type: Ready, status: 'False'}]}", Health::Unhealthy),
        ("status: {phase: Failed}", Health::Unhealthy),
        ("status: {phase: Succeeded, conditions: [{type: Ready, status: 'True'}]}", Health::Unhealthy),
    ];
    for (status, expected) in rows {
        let mesh = mesh(&pod("", &format!("spec: {{containers: []}}\n{status}\n")));
        assert_eq!(mesh.workloads.values().next().unwrap().health, expected, "{status}");
    }
}

#[test]
fn the_controller_names_the_workload() {
    let owner =
        |kind: &str, name: &str| format!(", ownerReferences: [{{apiVersion: v1, kind: {kind}, name: {name}, uid: u, controller: true}}]");
    let rows = [
        (owner("ReplicaSet", "web-5d9"), "web", WorkloadType::Deployment),
        (owner("ReplicaSet", "web-5d9") + ", labels: {pod-template-hash: other}", "web-5d9", WorkloadType::Deployment),
        (owner("Job", "nightly-28373640"), "nightly", WorkloadType::CronJob),
        (owner("Job", "import-1"), "import-1", WorkloadType::Job),
        (owner("StatefulSet", "db"), "db", WorkloadType::Pod),
        (String::new(), "p", WorkloadType::Pod),
    ];
    for (metadata, name, kind) in rows {
        let mesh = mesh(&pod(&metadata, "spec: {containers: []}\n"));
        let pod = mesh.workloads.values().next().unwrap();
        assert_eq!((&*pod.workload_name, pod.workload_type), (name, kind), "{metadata}");
    }
}

#[test]
fn a_pod_takes_hbone_when_it_says_so() {
    let rows = [
        ("", TunnelProtocol::None),
        (", annotations: {ambient.istio.io/redirection: enabled}", TunnelProtocol::Hbone),
        (", annotations: {ambient.istio.io/redirection: pending}", TunnelProtocol::None),
        (", labels: {networking.istio.io/tunnel: http}", TunnelProtocol::Hbone),
        (", labels: {gateway.istio.io/managed: istio.io-mesh-controller}", TunnelProtocol::Hbone),
    ];
    for (metadata, expected) in rows {
        let mesh = mesh(&pod(metadata, "spec: {containers: []}\n"));
        assert_eq!(mesh.workloads.values().next().unwrap().protocol, expected, "{metadata}");
    }
}

#[test]
fn wrong_pods_are_refused() {
    assert_findings(&[
        (
            &pod("", "spec: {containers: [], serviceAccountName: a/b}\n"),
            &["4:44: error: Pod default/p: spec.serviceAccountName: \"a/b\" cannot be part of an identity"],
        ),
        (
            &pod("", "spec: {containers: []}\nstatus: {podIP: x}\n"),
            &["5:17: error: Pod default/p: status.podIP: \"x\" is not an IP address"],
        ),
        (
            &pod(", labels: {a: 1}", "spec: {containers: []}\n"),
            &["3:33: error: Pod default/p: metadata.labels.a: invalid type: integer `1`, expected a string"],
        ),
    ]);
}

fn slice(labels: &str, rest: &str) -> String {
    format!("{REVIEWS}---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: e, labels: {{{labels}}}}}\n{rest}")
}

#[test]
fn endpoint_slices_are_read_and_refused() {
    let ours = "kubernetes.io/service-name: reviews";
    let mesh = mesh(&slice(
        ours,
        "addressType: IPv4\nports: [{name: http, port: 8080}, {name: dns, port: 53, protocol: UDP}]\nendpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2], conditions: {ready: false}}]\n",
    ));
    let endpoints = &mesh.endpoints.values().next().unwrap().endpoints;
    assert_eq!(endpoints.iter().map(|e| e.ready).collect::<Vec<_>>(), [true, false]);
    assert_eq!(endpoints[0].ports, [("http".into(), 8080)]);
    assert_findings(&[
        (
            &slice(ours, "addressType: FQDN\nendpoints: []\n"),
            &["9:14: error: EndpointSlice default/e: addressType: FQDN is not implemented"],
        ),
        (
            &slice(ours, "addressType: IPv4\nendpoints: [{addresses: ['fd00::1']}]\n"),
            &["10:26: error: EndpointSlice default/e: endpoints[0].addresses[0]: fd00::1 is not of the slice's address type"],
        ),
        (
            &slice("", "addressType: IPv4\nendpoints: []\n"),
            &[
                "8:21: warning: EndpointSlice default/e: metadata.labels: no label kubernetes.io/service-name: belongs to no service; skipped",
            ],
        ),
        (
            &slice("kubernetes.io/service-name: gone", "addressType: IPv4\nendpoints: []\n"),
            &[
                "8:58: error: EndpointSlice default/e: metadata.labels[\"kubernetes.io/service-name\"]: service default/gone.default.svc.cluster.local does not exist",
            ],
        ),
    ]);
}

fn gateway(metadata: &str, class: &str, listener: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: w{metadata}}}\nspec:\n  gatewayClassName: {class}\n  listeners:\n  - {{name: mesh, {listener}}}\n"
    )
}

#[test]
fn gateways_are_read_and_refused() {
    let hbone = "port: 15008, protocol: HBONE";
    let mesh = mesh(&gateway("", "cairn-waypoint", hbone));
    let waypoint = mesh.waypoints.values().next().unwrap();
    assert_eq!((waypoint.traffic, &waypoint.allowed), (TrafficType::Service, &AllowedNamespaces::Same));
    assert_findings(&[
        (&gateway("", "istio", "port: 80, protocol: HTTP"), &["1:1: warning: Gateway class \"istio\" is not a waypoint class; skipped"]),
        (
            &gateway("", "istio-waypoint", "port: 15008, protocol: HTTP"),
            &[
                "6:3: error: Gateway default/w: spec.listeners: UnsupportedProtocol: a waypoint needs a listener with port 15008 and protocol HBONE",
            ],
        ),
        (
            &gateway(", labels: {istio.io/waypoint-for: everything}", "istio-waypoint", hbone),
            &[
                "3:53: error: Gateway default/w: metadata.labels[\"istio.io/waypoint-for\"]: \"everything\" is none of service, workload, all, none",
            ],
        ),
        (
            &gateway(
                "",
                "istio-waypoint",
                &format!(
                    "{hbone}, allowedRoutes: {{namespaces: {{from: Selector, selector: {{matchExpressions: [{{key: a, operator: Exists}}]}}}}}}"
                ),
            ),
            &[
                "7:104: error: Gateway default/w: spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions: not implemented: only matchLabels are read",
            ],
        ),
        (
            &gateway("", "istio-waypoint", &format!("{hbone}, allowedRoutes: {{namespaces: {{from: Any}}}}")),
            &[
                "7:83: error: Gateway default/w: spec.listeners[0].allowedRoutes.namespaces.from: unknown variant `Any`, expected one of `All`, `Selector`, `Same`",
            ],
        ),
    ]);
}

#[test]
fn whoever_listens_for_hbone_is_a_waypoint_and_nobody_else_is_usable() {
    let hbone = "port: 15008, protocol: HBONE";
    let rows = [
        ("foreign with HBONE", gateway("", "somebodys", hbone), AllowedNamespaces::Same, TrafficType::Service),
        ("foreign without", gateway("", "istio", "port: 80, protocol: HTTP"), AllowedNamespaces::None, TrafficType::Service),
        ("foreign, wrong port", gateway("", "istio", "port: 15009, protocol: HBONE"), AllowedNamespaces::None, TrafficType::Service),
        ("ours, wrong listener", gateway("", "istio-waypoint", "port: 80, protocol: HBONE"), AllowedNamespaces::None, TrafficType::Service),
        (
            "ours, wrong label",
            gateway(", labels: {istio.io/waypoint-for: everything}", "istio-waypoint", hbone),
            AllowedNamespaces::None,
            TrafficType::All,
        ),
        (
            "for workloads",
            gateway(", labels: {istio.io/waypoint-for: workload}", "istio", "port: 80, protocol: HTTP"),
            AllowedNamespaces::None,
            TrafficType::Workload,
        ),
    ];
    for (what, text, allowed, traffic) in rows {
        let dir = Dir::with("m.yaml", &text);
        let mesh = load(dir.config()).mesh;
        let waypoint = mesh.waypoints.values().next().unwrap_or_else(|| panic!("{what}"));
        assert_eq!((&waypoint.allowed, waypoint.traffic), (&allowed, traffic), "{what}");
    }
}

#[test]
fn a_binding_needs_a_waypoint_that_allows_it() {
    let bound = |namespace: &str| {
        format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n  labels:\n    istio.io/use-waypoint: w\n    istio.io/use-waypoint-namespace: default\n"
        )
    };
    let hbone = "port: 15008, protocol: HBONE";
    mesh(&(gateway("", "istio-waypoint", &format!("{hbone}, allowedRoutes: {{namespaces: {{from: All}}}}")) + &bound("other")));
    let by_name = format!(
        "{hbone}, allowedRoutes: {{namespaces: {{from: Selector, selector: {{matchLabels: {{kubernetes.io/metadata.name: other}}}}}}}}"
    );
    mesh(&(gateway("", "istio-waypoint", &by_name) + &bound("other")));
    assert_findings(&[
        // A waypoint is a waypoint, whoever serves it.
        (
            &(gateway("", "istio-eastwest", hbone) + &bound("other")),
            &[
                "5:21: warning: Gateway default/w: spec.gatewayClassName: class \"istio-eastwest\" is not ours: taken for a waypoint because of its HBONE listener",
                "14:28: error: Namespace other: metadata.labels[\"istio.io/use-waypoint\"]: waypoint default/w does not allow namespace other",
            ],
        ),
        (
            &(gateway("", "istio-waypoint", hbone) + &bound("other")),
            &[
                "14:28: error: Namespace other: metadata.labels[\"istio.io/use-waypoint\"]: waypoint default/w does not allow namespace other",
            ],
        ),
        (
            &bound("default"),
            &["7:28: error: Namespace default: metadata.labels[\"istio.io/use-waypoint\"]: waypoint default/w does not exist"],
        ),
    ]);
}
