//! Which source is used, and what is set beside it.

use super::*;

const LOCAL_FILE: (&str, &str) = ("LOCAL_XDS_PATH", "/mesh.yaml");
const DIRECTORY: (&str, &str) = ("CAIRN_IDENTITY_DIR", "/certs");
const SPIFFE: (&str, &str) = ("SPIFFE_ENDPOINT_SOCKET", "unix:///agent.sock");
const NO_XDS: (&str, &str) = ("XDS_ADDRESS", "");
const NO_CA: (&str, &str) = ("CA_ADDRESS", "");

fn mesh(command: &ZtunnelCommand) -> &'static str {
    let here = [
        (!command.mesh.manifests.is_empty(), "manifests"),
        (command.local_xds.is_some(), "file"),
        (command.local_xds_inline.is_some(), "text"),
        (command.control.xds.is_some(), "xds"),
    ];
    only(&here)
}

fn certificates(process: &ProcessArgs, control: &ControlPlane) -> &'static str {
    only(&[(process.identity_dir.is_some(), "directory"), (control.spiffe.is_some(), "spiffe"), (control.ca.is_some(), "ca")])
}

fn only(sources: &[(bool, &'static str)]) -> &'static str {
    let used: Vec<_> = sources.iter().filter(|(used, _)| *used).map(|(_, name)| *name).collect();
    assert_eq!(used.len(), 1, "{used:?}");
    used[0]
}

/// Flags, variables, where the mesh and certificates come from, and what the warnings name.
type Row = (&'static [&'static str], &'static [(&'static str, &'static str)], &'static str, &'static str, &'static [&'static str]);

#[test]
fn a_ztunnel_has_one_mesh_and_one_source_of_certificates() {
    let rows: [Row; 18] = [
        (&[], &[], "xds", "ca", &[]),
        (&[], &[("XDS_ADDRESS", "istiod:15012")], "xds", "ca", &[]),
        (&[], &[LOCAL_FILE], "file", "ca", &[]),
        (&[], &[("LOCAL_XDS", "{}")], "text", "ca", &[]),
        (&[], &[("CAIRN_MANIFESTS", "m")], "manifests", "ca", &[]),
        (&[], &[LOCAL_FILE, ("XDS_ADDRESS", "istiod")], "file", "ca", &["XDS_ADDRESS"]),
        (&[], &[LOCAL_FILE, NO_XDS], "file", "ca", &[]),
        (&[], &[LOCAL_FILE, ("XDS_ON_DEMAND", "true")], "file", "ca", &["XDS_ON_DEMAND"]),
        (&["--xds-address=istiod"], &[LOCAL_FILE], "xds", "ca", &["LOCAL_XDS_PATH"]),
        (&["--xds-address=istiod"], &[NO_XDS], "xds", "ca", &[]),
        (&["--manifests=m"], &[LOCAL_FILE, ("XDS_ROOT_CA", "/r")], "manifests", "ca", &["XDS_ROOT_CA"]),
        (&["--local-xds=/b", "--xds-root-ca=/r"], &[("CAIRN_MANIFESTS", "m")], "file", "ca", &["--xds-root-ca"]),
        (&[], &[DIRECTORY, ("CA_ADDRESS", "istiod")], "xds", "directory", &["CA_ADDRESS"]),
        (&[], &[DIRECTORY, SPIFFE, ("CA_HEADER_a", "b")], "xds", "directory", &["SPIFFE_ENDPOINT_SOCKET, CA_HEADER_a"]),
        (&["--mode=dedicated"], &[SPIFFE, ("CA_ADDRESS", "istiod")], "xds", "spiffe", &["CA_ADDRESS"]),
        (&["--ca-address=istiod"], &[DIRECTORY, SPIFFE], "xds", "ca", &["SPIFFE_ENDPOINT_SOCKET, CAIRN_IDENTITY_DIR"]),
        (&["--mode=dedicated", "--spiffe-endpoint-socket=/s"], &[DIRECTORY, NO_CA], "xds", "spiffe", &["CAIRN_IDENTITY_DIR"]),
        (&[], &[DIRECTORY, LOCAL_FILE, ("AUTH_TOKEN", "x")], "file", "directory", &["AUTH_TOKEN"]),
    ];
    for (flags, variables, expected_mesh, expected_certificates, names) in rows {
        let args = [&["cairn", "ztunnel"], flags].concat();
        let command = ztunnel(&args, &environment(variables)).unwrap_or_else(|error| panic!("{flags:?} {variables:?}: {error}"));
        assert_eq!(mesh(&command), expected_mesh, "{flags:?} {variables:?}");
        assert_eq!(certificates(&command.process, &command.control), expected_certificates, "{flags:?} {variables:?}");
        assert_eq!(command.warnings.len(), names.len(), "{flags:?} {variables:?}: {:?}", command.warnings);
        for (warning, name) in command.warnings.iter().zip(names) {
            assert!(warning.starts_with(&format!("without effect: {name} (")), "{flags:?} {variables:?}: {warning}");
        }
    }
}

#[test]
fn what_contradicts_itself_or_leaves_nothing_is_refused() {
    let rows: [(&[&str], Variables<'_>, &str); 11] = [
        (&[], &[SPIFFE], "SPIFFE_ENDPOINT_SOCKET (--spiffe-endpoint-socket) cannot be used in shared mode: "),
        (&["--spiffe-endpoint-socket=/s", "--mode=shared"], &[DIRECTORY], "cannot be used in shared mode: "),
        (
            &["--xds-address=a", "--manifests=m"],
            &[],
            "only one of --xds-address, --manifests, --local-xds and --local-xds-inline may be given",
        ),
        (&["--local-xds=a", "--manifests=m"], &[], "cannot be used with"),
        (&[], &[LOCAL_FILE, ("CAIRN_MANIFESTS", "m")], "only one of LOCAL_XDS_PATH, LOCAL_XDS and CAIRN_MANIFESTS"),
        (&[], &[NO_XDS], "no mesh: XDS_ADDRESS is off; give the address of a control plane by XDS_ADDRESS (--xds-address)"),
        (&["--xds-address=off"], &[("XDS_ADDRESS", "istiod")], "no mesh: XDS_ADDRESS is off"),
        (&[], &[NO_CA], "no certificates: give the address of a CA by CA_ADDRESS (--ca-address)"),
        (&["--ca-address=off"], &[("CA_ADDRESS", "istiod")], "no certificates: "),
        (
            &["--ca-address=a", "--identity-dir=b"],
            &[],
            "only one of --identity-dir, --spiffe-endpoint-socket and --ca-address may be given",
        ),
        (
            &[],
            &[("XDS_ON_DEMAND", "true")],
            "XDS_ON_DEMAND and the DNS proxy cannot be combined: names can be answered only by who knows them all; \
             set ISTIO_META_DNS_CAPTURE=false (--dns=false)",
        ),
    ];
    for (flags, variables, says) in rows {
        let error = ztunnel(&[&["cairn", "ztunnel"], flags].concat(), &environment(variables)).unwrap_err();
        assert!(error.contains(says), "{flags:?} {variables:?}: {error}");
    }
}

#[test]
fn on_demand_goes_without_dns_proxy() {
    let on_demand = |flags: &[&str], variables: &[(&str, &str)]| {
        let command = ztunnel(&[&["cairn", "ztunnel"], flags].concat(), &environment(variables)).unwrap();
        command.control.xds.unwrap().on_demand
    };
    let (on, no_dns) = (("XDS_ON_DEMAND", "true"), ("ISTIO_META_DNS_CAPTURE", "false"));
    assert!(on_demand(&[], &[on, no_dns]));
    assert!(on_demand(&["--dns=false"], &[on]));
    assert!(!on_demand(&["--xds-on-demand=false"], &[on]));
    assert!(!on_demand(&[], &[]));
}

const GATEWAY: [&str; 3] = ["cairn", "waypoint", "--gateway=ns/gw"];
const KUBERNETES: (&str, &str) = ("KUBERNETES_SERVICE_HOST", "10.96.0.1");
const POD: [(&str, &str); 3] = [("POD_NAME", "gw-1"), ("POD_NAMESPACE", "ns"), ("SERVICE_ACCOUNT", "gw")];

fn waypoint(flags: &[&str], variables: &[(&str, &str)]) -> Result<Box<WaypointCommand>, String> {
    let cli = Cli::read([&GATEWAY, flags].concat(), &environment(variables)).map_err(|error| error.to_string())?;
    let Command::Waypoint(command) = cli.command else { panic!("wrong command") };
    Ok(command)
}

/// Flags, variables beside those of the pod; whether there are manifests, where the control plane and
/// the CA are, if they are.
type WaypointRow = (&'static [&'static str], &'static [(&'static str, &'static str)], bool, Option<&'static str>, Option<&'static str>);

#[test]
fn a_waypoint_takes_the_mesh_from_manifests_or_a_control_plane_or_both() {
    const ISTIOD: Option<&str> = Some("https://istiod.istio-system.svc:15012/");
    let rows: [WaypointRow; 11] = [
        (&["--manifests=m", "--identity-dir=i"], &[], true, None, None),
        (&["--manifests=m", "--identity-dir=i"], &[KUBERNETES], true, None, None),
        (&["--manifests=m"], &[KUBERNETES], true, None, ISTIOD),
        (&[], &[KUBERNETES], false, ISTIOD, ISTIOD),
        (&[], &[("XDS_ADDRESS", "xds")], false, Some("https://xds:15012/"), Some("https://xds:15012/")),
        (&["--manifests=m"], &[("XDS_ADDRESS", "xds:1")], true, Some("https://xds:1/"), Some("https://xds:1/")),
        (&["--manifests=m"], &[KUBERNETES, ("PROXY_CONFIG", "discoveryAddress: pc:2")], true, Some("https://pc:2/"), Some("https://pc:2/")),
        (&["--manifests=m"], &[("CA_ADDR", "ca:3")], true, None, Some("https://ca:3/")),
        (&["--manifests=m"], &[("CA_ADDR", "ca:3"), ("CA_ADDRESS", "ca:4")], true, None, Some("https://ca:4/")),
        (&["--manifests=m", "--ca-address=ca:5"], &[("CA_ADDR", "ca:3"), DIRECTORY], true, None, Some("https://ca:5/")),
        (&["--manifests=m"], &[SPIFFE, KUBERNETES, NO_XDS], true, None, None),
    ];
    for (flags, variables, manifests, xds, ca) in rows {
        let command = waypoint(flags, &[&POD, variables].concat()).unwrap_or_else(|error| panic!("{flags:?} {variables:?}: {error}"));
        let address = |server: &crate::transport::grpc::Server| server.address.to_string();
        assert_eq!(!command.mesh.manifests.is_empty(), manifests, "{flags:?} {variables:?}");
        assert_eq!(command.control.xds.as_ref().map(|xds| address(&xds.server)).as_deref(), xds, "{flags:?} {variables:?}");
        assert_eq!(command.control.ca.as_ref().map(|ca| address(&ca.server)).as_deref(), ca, "{flags:?} {variables:?}");
        let from = certificates(&command.process, &command.control);
        let identity = (from != "directory").then_some("spiffe://cluster.local/ns/ns/sa/gw");
        assert_eq!(command.control.identity.as_ref().map(crate::model::Identity::as_str), identity, "{flags:?} {variables:?}");
    }
}

#[test]
fn a_waypoint_without_mesh_certificates_or_a_name_is_refused() {
    let off = [KUBERNETES, NO_XDS];
    let only_pod = [KUBERNETES, POD[0], POD[1]];
    let stock = [KUBERNETES, POD[0], POD[1], POD[2]];
    let rows: [(&[&str], Variables<'_>, &str); 10] = [
        (&[], &POD, "no mesh: give --manifests (CAIRN_MANIFESTS), or the address of a control plane by --xds-address (XDS_ADDRESS)"),
        (&[], &off, "no mesh: give --manifests"),
        (&["--manifests=m"], &POD, "no certificates: "),
        (&["--identity-dir=i"], &[KUBERNETES], "who asks: POD_NAME (--pod-name) and POD_NAMESPACE (--pod-namespace) not set"),
        (&[], &only_pod, "it must be told for whom the certificate is: SERVICE_ACCOUNT (--service-account) not set"),
        (
            &["--manifests=m"],
            &[SPIFFE, POD[0], POD[1]],
            "it must be told for whom the certificate is: SERVICE_ACCOUNT (--service-account) not set",
        ),
        (&["--manifests=m", "--trust-domain=a/b"], &[SPIFFE, POD[1], POD[2]], "TRUST_DOMAIN, POD_NAMESPACE, SERVICE_ACCOUNT: "),
        (&["--trust-domain=a/b"], &stock, "TRUST_DOMAIN, POD_NAMESPACE, SERVICE_ACCOUNT: "),
        (&["--cluster-id=\u{e9}"], &stock, "(--cluster-id): not a text that a header can hold"),
        (&["--manifests=m"], &[("CA_ADDR", "ca")], "POD_NAMESPACE (--pod-namespace) and SERVICE_ACCOUNT (--service-account) not set"),
    ];
    for (flags, variables, says) in rows {
        let error = waypoint(flags, variables).unwrap_err();
        assert!(error.contains(says), "{flags:?} {variables:?}: {error}");
    }
    assert!(
        Cli::read(["cairn", "waypoint", "--manifests=m", "--identity-dir=i"], &environment(&[]))
            .unwrap_err()
            .to_string()
            .contains("--gateway")
    );
}
