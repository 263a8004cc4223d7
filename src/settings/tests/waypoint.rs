//! `cairn waypoint`, and Istio's Deployment of it.

use super::*;
use prost_types::{Struct, Value, value::Kind};

/// What Istio's Deployment sets.
const STOCK: [(&str, &str); 19] = [
    ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
    ("ISTIO_META_SERVICE_ACCOUNT", "waypoint"),
    ("ISTIO_META_NODE_NAME", "n1"),
    ("PILOT_CERT_PROVIDER", "istiod"),
    ("CA_ADDR", "istiod.istio-system.svc:15012"),
    ("POD_NAME", "waypoint-7d-x"),
    ("POD_NAMESPACE", "shop"),
    ("INSTANCE_IP", "10.1.2.3"),
    ("SERVICE_ACCOUNT", "waypoint"),
    ("HOST_IP", "192.168.0.4"),
    ("ISTIO_CPU_LIMIT", "2"),
    ("GOMEMLIMIT", "1073741824"),
    ("PROXY_CONFIG", "{}"),
    ("ISTIO_META_CLUSTER_ID", "east"),
    ("ISTIO_META_NETWORK", "net1"),
    ("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"),
    ("ISTIO_META_WORKLOAD_NAME", "waypoint"),
    ("ISTIO_META_MESH_ID", "mesh1"),
    ("TRUST_DOMAIN", "td.test"),
];
const STOCK_ARGS: [&str; 13] = [
    "cairn",
    "proxy",
    "waypoint",
    "--domain",
    "shop.svc.c.test",
    "--serviceCluster",
    "waypoint.shop",
    "--proxyLogLevel",
    "warning",
    "--proxyComponentLogLevel",
    "misc:error",
    "--log_output_level",
    "default:info",
];

fn waypoint<T: AsRef<str>>(args: &[T], environment: &Environment) -> Result<Box<WaypointCommand>, String> {
    let args = args.iter().map(|arg| arg.as_ref().to_owned());
    let cli = Cli::read(args, environment).map_err(|error| error.to_string())?;
    let Command::Waypoint(command) = cli.command else { panic!("wrong command") };
    Ok(command)
}

fn stock(more: &[(&str, &str)]) -> Result<Box<WaypointCommand>, String> {
    waypoint(&STOCK_ARGS, &environment(&[&STOCK, more].concat()))
}

pub(super) fn text<'a>(metadata: &'a Struct, key: &str) -> Option<&'a str> {
    match metadata.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        Kind::NullValue(_) | Kind::NumberValue(_) | Kind::BoolValue(_) | Kind::StructValue(_) | Kind::ListValue(_) => None,
    }
}

pub(super) fn fields<'a>(metadata: &'a Struct, key: &str) -> &'a Struct {
    match metadata.fields.get(key) {
        Some(Value { kind: Some(Kind::StructValue(fields)) }) => fields,
        other => panic!("{key} is {other:?}"),
    }
}

#[test]
fn the_stock_deployment_alone_is_a_waypoint_of_istiod() {
    let command = stock(&[]).unwrap();
    assert_eq!(command.gateway, ResourceName::new("shop", "waypoint"));
    assert_eq!((command.mesh.names.cluster_domain.as_str(), command.mesh.names.trust_domain.as_str()), ("c.test", "td.test"));
    assert_eq!((command.process.log.as_deref(), command.process.log_json), (Some("warn"), false));
    assert_eq!((command.process.worker_threads, command.process.drain_deadline), (Some(2), Duration::from_secs(25)));
    assert_eq!((command.pod.network.as_str(), command.pod.node.as_deref()), ("net1", Some("n1")));
    assert!(command.warnings.is_empty() && command.mesh.manifests.is_empty() && command.process.identity_dir.is_none());

    let control = &command.control;
    let (xds, ca) = (control.xds.as_ref().unwrap(), control.ca.as_ref().unwrap());
    assert_eq!(xds.server.address, "https://istiod.istio-system.svc:15012/");
    assert_eq!(ca.server.address, "https://istiod.istio-system.svc:15012/");
    assert_eq!(xds.server.credentials.cluster, "east");
    assert_eq!(control.identity.as_ref().unwrap().as_str(), "spiffe://td.test/ns/shop/sa/waypoint");
    assert!(!xds.on_demand);

    assert_eq!(xds.node.id, "waypoint~10.1.2.3~waypoint-7d-x.shop~shop.svc.c.test");
    let metadata = &xds.node.metadata;
    for (key, value) in [
        ("NAME", "waypoint-7d-x"),
        ("NAMESPACE", "shop"),
        ("INSTANCE_IPS", "10.1.2.3"),
        ("NODE_NAME", "n1"),
        ("SERVICE_ACCOUNT", "waypoint"),
        ("CLUSTER_ID", "east"),
        ("NETWORK", "net1"),
        ("INTERCEPTION_MODE", "REDIRECT"),
        ("MESH_ID", "mesh1"),
        ("WORKLOAD_NAME", "waypoint"),
    ] {
        assert_eq!(text(metadata, key), Some(value), "{key}");
    }
    assert_eq!(text(fields(metadata, "LABELS"), "gateway.networking.k8s.io/gateway-name"), Some("waypoint"));
}

#[test]
fn the_label_of_the_pod_says_the_gateway_before_the_deployment_does() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("etc/istio/pod/labels");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "gateway.networking.k8s.io/gateway-name=\"other\"\nservice.istio.io/canonical-name=\"x\"\n").unwrap();
    let all = environment(&[&STOCK[..], &[("ISTIO_METAJSON_LABELS", r#"{"a":"b"}"#)]].concat()).in_directory(dir.path());
    let command = waypoint(&STOCK_ARGS, &all).unwrap();
    assert_eq!(command.gateway, ResourceName::new("shop", "other"));
    let labels = fields(&command.control.xds.as_ref().unwrap().node.metadata, "LABELS").clone();
    for (key, value) in [("gateway.networking.k8s.io/gateway-name", "other"), ("service.istio.io/canonical-name", "x"), ("a", "b")] {
        assert_eq!(text(&labels, key), Some(value), "{key}");
    }
    let named = waypoint(&["cairn", "waypoint", "--gateway=a/b"], &all).unwrap();
    assert_eq!(named.gateway, ResourceName::new("a", "b"));
}

#[test]
fn the_class_of_the_gateway_is_what_the_labels_of_its_pod_say() {
    let class = "gateway.networking.k8s.io/gateway-class-name=\"special\"";
    let name = |name| format!("gateway.networking.k8s.io/gateway-name=\"{name}\"");
    for (labels, gateway, want) in [
        (None, "shop/waypoint", None),
        (Some(name("waypoint")), "shop/waypoint", None),
        (Some(class.to_owned()), "shop/waypoint", None),
        (Some(format!("{}\n{class}\n", name("waypoint"))), "shop/waypoint", Some("special")),
        (Some(format!("{}\n{class}\n", name("other"))), "shop/waypoint", None),
        (Some(format!("{}\n{class}\n", name("waypoint"))), "other/waypoint", None),
        (Some(format!("{}\n{}\n", name("waypoint"), class.replace("special", ""))), "shop/waypoint", None),
    ] {
        let dir = tempfile::tempdir().unwrap();
        if let Some(labels) = &labels {
            let file = dir.path().join("etc/istio/pod/labels");
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, labels).unwrap();
        }
        let command = waypoint(&["cairn", "waypoint", "--gateway", gateway], &environment(&STOCK).in_directory(dir.path())).unwrap();
        assert_eq!(command.control.gateway_class.as_deref(), want, "{labels:?} {gateway}");
    }
}

#[test]
fn the_deployment_of_agentgateway_is_understood() {
    let variables = [
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("HOSTNAME", "wp-1"),
        ("XDS_ADDRESS", "https://istiod.istio-system.svc:15012"),
        ("CA_ADDRESS", "https://istiod.istio-system.svc:15012"),
        ("GATEWAY", "wp"),
        ("NAMESPACE", "shop"),
        ("SERVICE_ACCOUNT", "wp"),
        ("CLUSTER_ID", "west"),
        ("NETWORK", "net2"),
        ("CPU_LIMIT", "3"),
    ];
    let command = waypoint(&["cairn", "waypoint"], &environment(&variables)).unwrap();
    assert_eq!((command.gateway, command.process.worker_threads), (ResourceName::new("shop", "wp"), Some(3)));
    assert_eq!((command.pod.cluster_id.as_str(), command.pod.network.as_str()), ("west", "net2"));
    assert_eq!(command.control.xds.unwrap().node.id, "waypoint~1.1.1.1~wp-1.shop~shop.svc.cluster.local");
    assert_eq!(command.control.identity.unwrap().as_str(), "spiffe://cluster.local/ns/shop/sa/wp");
}

#[test]
fn arguments_of_the_image_that_are_wrong_or_ours() {
    let with = |more: &[&str]| waypoint(&[&["cairn", "proxy", "waypoint"], more].concat(), &environment(&STOCK));
    for (more, says) in [
        (&["--domain"][..], "--domain: a value is missing"),
        (&["--domain", "shop"], "--domain \"shop\": not of the form NAMESPACE.svc.DOMAIN"),
        (&["--domain=shop.svc."], "not of the form NAMESPACE.svc.DOMAIN"),
        (&["--concurrency", "2"], "unexpected argument '--concurrency'"),
    ] {
        let error = with(more).unwrap_err();
        assert!(error.contains(says), "{more:?}: {error}");
    }
    let log = |more: &[&str]| with(more).unwrap().process.log;
    assert_eq!(log(&[]), None);
    for (level, ours) in [("warning", "warn"), ("critical", "error"), ("debug", "debug"), ("off", "off")] {
        assert_eq!(log(&["--proxyLogLevel", level]).as_deref(), Some(ours), "{level}");
    }
    assert_eq!(log(&["--log_output_level=default:debug"]).as_deref(), Some("debug"));
    assert_eq!(log(&["--log_output_level", "default:info,ads:debug"]), None);
    assert_eq!(log(&["--proxyLogLevel=warning", "--log=trace"]).as_deref(), Some("trace"));
    assert!(with(&["--log_as_json"]).unwrap().process.log_json);
    assert_eq!(with(&["--manifests", "m"]).unwrap().mesh.manifests.len(), 1);
    let told = environment(&[&STOCK[..], &[("RUST_LOG", "trace")]].concat());
    assert_eq!(waypoint(&STOCK_ARGS, &told).unwrap().process.log.as_deref(), Some("trace"));
}

#[test]
fn a_waypoint_minds_nothing_of_a_ztunnel() {
    let foreign = environment(&[
        ("XDS_ON_DEMAND", "maybe"),
        ("KEEPALIVE_TIME", "soon"),
        ("ZTUNNEL_WORKER_THREADS", "many"),
        ("PROXY_MODE", "x"),
        ("CONNECTION_TERMINATION_DEADLINE", "x"),
        ("FAKE_CA", "true"),
        ("ENABLE_PROXY", "false"),
        ("LOCAL_XDS_PATH", "/a"),
    ]);
    assert!(Cli::read(WAYPOINT, &foreign).is_ok());
}

#[test]
fn mesh_configuration_is_read_as_a_ztunnel_does() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("etc/istio/config/mesh");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "defaultConfig: {discoveryAddress: 'mesh:1', statsPort: 15888, proxyMetadata: {A: file, B: file}}").unwrap();
    let config = "{discoveryAddress: 'pc:2', proxyAdminPort: 15999, concurrency: 3, proxyMetadata: {A: pc, ISTIO_METAJSON_J: '[1]'}}";
    let variables: Vec<_> = STOCK.into_iter().filter(|(name, _)| !["PROXY_CONFIG", "ISTIO_CPU_LIMIT"].contains(name)).collect();
    let read = |more: &[(&str, &str)]| {
        let all = environment(&[&variables[..], more].concat()).in_directory(dir.path());
        waypoint(&["cairn", "waypoint"], &all).unwrap()
    };
    let command = read(&[]);
    assert_eq!(command.control.xds.as_ref().unwrap().server.address, "https://mesh:1/");
    assert_eq!(command.listeners.admin.metrics_address, ListenAddress::At("[::]:15888".parse().unwrap()));
    assert_eq!(command.process.worker_threads, None);

    let command = read(&[("PROXY_CONFIG", config)]);
    let xds = command.control.xds.as_ref().unwrap();
    assert_eq!((xds.server.address.to_string().as_str(), command.process.worker_threads), ("https://pc:2/", Some(3)));
    assert_eq!((text(&xds.node.metadata, "A"), text(&xds.node.metadata, "B")), (Some("pc"), Some("file")));
    assert!(matches!(xds.node.metadata.fields["J"].kind, Some(Kind::ListValue(_))));
    assert_eq!(command.listeners.admin.admin_address, ListenAddress::At("127.0.0.1:15999".parse().unwrap()));

    let command = read(&[("PROXY_CONFIG", config), ("XDS_ADDRESS", "env:3"), ("TERMINATION_GRACE_PERIOD_SECONDS", "60")]);
    assert_eq!(command.control.xds.as_ref().unwrap().server.address, "https://env:3/");
    assert_eq!(command.process.drain_deadline, Duration::from_secs(55));
}

#[test]
fn threads_of_a_waypoint_follow_the_limit_unless_told() {
    let rows: [(Variables<'_>, Option<usize>); 6] = [
        (&[("ISTIO_CPU_LIMIT", "")], Some(2)),
        (&[("ISTIO_CPU_LIMIT", "500m")], Some(1)),
        (&[("ISTIO_CPU_LIMIT", "8"), ("CAIRN_WORKER_THREADS", "25%")], Some(2)),
        (&[("CAIRN_WORKER_THREADS", "5")], Some(5)),
        (&[("PROXY_CONFIG", "concurrency: 0")], Some(2)),
        (&[("PROXY_CONFIG", "concurrency: 1")], Some(1)),
    ];
    for (more, threads) in rows {
        assert_eq!(stock(more).unwrap().process.worker_threads, threads, "{more:?}");
    }
    let error = stock(&[("ISTIO_CPU_LIMIT", "much")]).unwrap_err();
    assert!(error.starts_with("ISTIO_CPU_LIMIT=\"much\": not a quantity of CPU"), "{error}");
    let error = stock(&[("CAIRN_WORKER_THREADS", "some")]).unwrap_err();
    assert!(error.starts_with("CAIRN_WORKER_THREADS=\"some\": "), "{error}");
}
