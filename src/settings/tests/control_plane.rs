//! What is told of a control plane, and what becomes of it.

use super::{
    waypoint::{fields, text},
    *,
};
use crate::transport::grpc::{Roots, Token};
use prost_types::value::Kind;

const ZTUNNEL: [&str; 2] = ["cairn", "ztunnel"];

fn control(flags: &[&str], variables: &[(&str, &str)]) -> Result<ControlPlane, String> {
    ztunnel(&[&ZTUNNEL, flags].concat(), &environment(variables)).map(|command| command.control)
}

fn xds(flags: &[&str], variables: &[(&str, &str)]) -> XdsSettings {
    control(flags, variables).unwrap_or_else(|error| panic!("{flags:?} {variables:?}: {error}")).xds.unwrap()
}

fn ca(flags: &[&str], variables: &[(&str, &str)]) -> CaSettings {
    control(flags, variables).unwrap_or_else(|error| panic!("{flags:?} {variables:?}: {error}")).ca.unwrap()
}

#[test]
fn the_stock_daemon_set_alone_lives_with_istiod() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("var/run/secrets/tokens/istio-token");
    std::fs::create_dir_all(token.parent().unwrap()).unwrap();
    std::fs::write(&token, "t").unwrap();
    let command = ztunnel(&PROXY, &environment(&STOCK).in_directory(dir.path())).unwrap();
    assert!(command.warnings.is_empty() && command.mesh.manifests.is_empty() && command.local_xds.is_none());
    let ControlPlane { xds, ca, spiffe, identity, crl, tls, gateway_class, secret_ttl } = command.control;
    let (xds, ca) = (xds.unwrap(), ca.unwrap());
    for server in [&xds.server, &ca.server] {
        assert_eq!(server.address, "https://istiod.istio-system.svc:15012/");
        assert_eq!(server.roots, Roots::File(dir.path().join("var/run/secrets/istio/root-cert.pem")));
        assert_eq!(server.credentials.token, Some(Token::File(token.clone())));
        assert_eq!((server.credentials.cluster.as_str(), server.credentials.headers.len()), ("east", 0));
        assert!(server.alternative_name.is_none());
    }
    assert_eq!((identity, spiffe, crl, tls, gateway_class), (None, None, None, TlsSettings::default(), None));
    assert_eq!((xds.on_demand, secret_ttl), (false, Duration::from_secs(86400)));
    assert_eq!(xds.node.id, "ztunnel~10.0.0.7~ztunnel-x.istio-system~istio-system.svc.cluster.local");
    let known: Vec<_> = xds.node.metadata.fields.keys().map(String::as_str).collect();
    assert_eq!(known, ["CLUSTER_ID", "ENABLE_HBONE", "INSTANCE_IPS", "NAME", "NAMESPACE", "NODE_NAME"]);
    for (key, value) in [("NAME", "ztunnel-x"), ("NAMESPACE", "istio-system"), ("INSTANCE_IPS", "10.0.0.7"), ("NODE_NAME", "n1")] {
        assert_eq!(text(&xds.node.metadata, key), Some(value), "{key}");
    }
}

#[test]
fn a_proxy_that_is_told_nothing_is_nobody_in_the_usual_place() {
    let on_kubernetes = xds(&[], &[("KUBERNETES_SERVICE_HOST", "10.96.0.1")]);
    assert_eq!(on_kubernetes.server.address, "https://istiod.istio-system.svc:15012/");
    let xds = xds(&["--cluster-domain=c.test"], &[]);
    assert_eq!(xds.server.address, "https://localhost:15012/");
    assert_eq!(xds.node.id, "ztunnel~1.1.1.1~.~.svc.cluster.local");
    assert_eq!(xds.server.credentials.token, None);
}

#[test]
fn addresses_are_those_of_servers_over_tls() {
    for (value, address) in [
        ("istiod.istio-system.svc:15012", "https://istiod.istio-system.svc:15012/"),
        ("https://istiod:443", "https://istiod:443/"),
        ("https://istiod:443/", "https://istiod:443/"),
        ("istiod", "https://istiod:15012/"),
        ("10.0.0.1:1", "https://10.0.0.1:1/"),
        ("[fd00::1]", "https://[fd00::1]:15012/"),
        ("[fd00::1]:7", "https://[fd00::1]:7/"),
    ] {
        assert_eq!(xds(&[], &[("XDS_ADDRESS", value)]).server.address, address, "{value}");
        assert_eq!(xds(&["--xds-address", value], &[("XDS_ADDRESS", "other")]).server.address, address, "{value}");
        assert_eq!(ca(&[], &[("CA_ADDRESS", value)]).server.address, address, "{value}");
        assert_eq!(ca(&["--ca-address", value], &[("CA_ADDRESS", "other")]).server.address, address, "{value}");
    }
    for (value, reason) in [
        ("http://istiod:15010", "a control plane is spoken to over TLS only: https, which istiod serves on port 15012"),
        ("grpc://istiod", "grpc is not https"),
        ("istiod:15012/path", "an address of a server has no path"),
        ("istiod:15012?a", "an address of a server has no path"),
        ("https://", "not an address like HOST:PORT or https://HOST:PORT"),
        (":15012", "not an address like HOST:PORT or https://HOST:PORT"),
        ("istiod:port", "not an address like HOST:PORT or https://HOST:PORT"),
        ("istiod:0", "not an address like HOST:PORT or https://HOST:PORT"),
        ("istiod:65536", "not an address like HOST:PORT or https://HOST:PORT"),
        ("user@istiod", "not an address like HOST:PORT or https://HOST:PORT"),
        ("is tiod", "not an address like HOST:PORT or https://HOST:PORT"),
    ] {
        for name in ["XDS_ADDRESS", "CA_ADDRESS"] {
            assert_eq!(control(&[], &[(name, value)]).unwrap_err(), format!("{name}={value:?}: {reason}"));
        }
    }
}

#[test]
fn roots_are_a_file_the_pem_or_the_system_s() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["a".into()]).unwrap().self_signed(&key).unwrap();
    let pem = certificate.pem();
    for (value, roots) in [
        ("/a.pem", Roots::File("/a.pem".into())),
        ("roots", Roots::File("roots".into())),
        ("SYSTEM", Roots::System),
        (&pem, Roots::Pem(pem.clone())),
    ] {
        assert_eq!(xds(&[], &[("XDS_ROOT_CA", value)]).server.roots, roots);
        assert_eq!(xds(&["--xds-root-ca", value], &[("XDS_ROOT_CA", "/b")]).server.roots, roots);
        assert_eq!(ca(&[], &[("CA_ROOT_CA", value)]).server.roots, roots);
        assert_eq!(ca(&["--ca-root-ca", value], &[("CA_ROOT_CA", "/b")]).server.roots, roots);
    }
    for wrong in ["-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", &key.serialize_pem()] {
        assert!(control(&[], &[("CA_ROOT_CA", wrong)]).unwrap_err().starts_with("CA_ROOT_CA="));
    }
    assert!(control(&["--ca-root-ca", "--tls12=true"], &[]).unwrap_err().contains("neither a path nor a PEM"));
}

#[test]
fn another_name_of_a_server_is_a_name() {
    let name = |server: crate::transport::grpc::Server| server.alternative_name.unwrap().to_str().into_owned();
    assert_eq!(name(xds(&[], &[("ALT_XDS_HOSTNAME", "a.test")]).server), "a.test");
    assert_eq!(name(xds(&["--alt-xds-hostname=b.test"], &[("ALT_XDS_HOSTNAME", "?")]).server), "b.test");
    assert_eq!(name(ca(&[], &[("ALT_CA_HOSTNAME", "a.test")]).server), "a.test");
    assert_eq!(name(ca(&["--alt-ca-hostname=b.test"], &[("ALT_CA_HOSTNAME", "?")]).server), "b.test");
    for variable in ["ALT_XDS_HOSTNAME", "ALT_CA_HOSTNAME"] {
        let error = control(&[], &[(variable, "a b")]).unwrap_err();
        assert_eq!(error, format!("{variable}=\"a b\": not the name of a server"));
    }
}

#[test]
fn a_token_is_a_path_by_its_beginning_and_never_shown() {
    let file = |path: &str| Token::File(path.into());
    for (value, token) in [
        ("/t", file("/t")),
        ("./t", file("./t")),
        ("../t", file("../t")),
        ("ey.J/x", Token::Literal("ey.J/x".into())),
        (" ey.J\n", Token::Literal(" ey.J\n".into())),
    ] {
        assert_eq!(xds(&[], &[("AUTH_TOKEN", value)]).server.credentials.token, Some(token.clone()), "{value}");
        assert_eq!(ca(&["--auth-token", value], &[("AUTH_TOKEN", "/other")]).server.credentials.token, Some(token), "{value}");
    }
    let shown = format!("{:?}", ztunnel(&ZTUNNEL, &environment(&[("AUTH_TOKEN", "s3cret"), ("XDS_HEADER_a", "s3cret")])).unwrap());
    assert!(!shown.contains("s3cret"), "{shown}");
    for variables in [[("AUTH_TOKEN", "s3\ncret")], [("AUTH_TOKEN", "s3cr\u{e9}t")]] {
        assert_eq!(control(&[], &variables).unwrap_err(), "AUTH_TOKEN: not a text that a header can hold");
    }
    let Err(UsageError::Arguments(help)) = Cli::read(["cairn", "ztunnel", "--help"], &environment(&[("AUTH_TOKEN", "s3cret")])) else {
        panic!("help")
    };
    assert!(!help.to_string().contains("s3cret"), "{help}");
}

#[test]
fn headers_of_variables_and_flags_come_together() {
    let variables = [("XDS_HEADER_X-Tenant", "a"), ("XDS_HEADER_other", "b"), ("CA_HEADER_x-ca", "c")];
    let shown = |server: crate::transport::grpc::Server| {
        let headers = server.credentials.headers.into_iter();
        let mut all: Vec<_> = headers.map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        all.sort();
        all
    };
    assert_eq!(shown(xds(&[], &variables).server), ["other=b", "x-tenant=a"]);
    assert_eq!(shown(ca(&[], &variables).server), ["x-ca=c"]);
    assert_eq!(shown(xds(&["--xds-header=X-TENANT=z=1", "--xds-header=n=m"], &variables).server), ["n=m", "other=b", "x-tenant=z=1"]);
    assert_eq!(shown(ca(&["--ca-header", "x-ca=z"], &variables).server), ["x-ca=z"]);
    for (variable, value, reason) in [
        ("XDS_HEADER_a b", "x", "what stands for its name is not the name of a header"),
        ("XDS_HEADER_", "x", "what stands for its name is not the name of a header"),
        ("CA_HEADER_a", "x\ny", "not a text that a header can hold"),
        ("CA_HEADER_a", "\u{e9}", "not a text that a header can hold"),
        ("CA_HEADER_a-bin", "x", "a-bin is a header of bytes, which a text cannot be"),
    ] {
        assert_eq!(control(&[], &[(variable, value)]).unwrap_err(), format!("{variable}: {reason}"));
    }
    for flag in ["--xds-header", "--ca-header"] {
        for (value, reason) in [
            ("s3cret", "not of the form NAME=VALUE"),
            ("authorization: s3cret==", "not the name of a header"),
            ("=s3cret", "not the name of a header"),
            ("a=s3cret\u{e9}", "not a text that a header can hold"),
        ] {
            let error = control(&[flag, value], &[]).unwrap_err();
            assert!(error.starts_with(&format!("{flag} <NAME=VALUE>: ")) && error.contains(reason), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}

#[test]
fn metadata_are_texts_and_json_and_a_flag_is_the_strongest() {
    let variables = [
        ("ISTIO_META_A", "env"),
        ("ISTIO_META_B", "env"),
        ("ISTIO_META_CLUSTER_ID", "east"),
        ("CLUSTER_ID", "west"),
        ("ISTIO_META_J", "text"),
        ("ISTIO_METAJSON_J", r#"{"n":1.5,"t":true,"z":null,"l":["x"]}"#),
        ("PROXY_CONFIG", "proxyMetadata: {B: pc, C: pc}"),
    ];
    let metadata = xds(&["--meta=A=flag", "--meta-json=K=[1]"], &variables).node.metadata;
    for (key, value) in [("A", "flag"), ("B", "env"), ("C", "pc"), ("CLUSTER_ID", "east")] {
        assert_eq!(text(&metadata, key), Some(value), "{key}");
    }
    assert!(matches!(metadata.fields["K"].kind, Some(Kind::ListValue(_))));
    let json = fields(&metadata, "J");
    assert_eq!(json.fields["n"].kind, Some(Kind::NumberValue(1.5)));
    assert_eq!(json.fields["t"].kind, Some(Kind::BoolValue(true)));
    assert_eq!(json.fields["z"].kind, Some(Kind::NullValue(0)));

    let by_flag = xds(&["--cluster-id=north"], &variables);
    assert_eq!(text(&by_flag.node.metadata, "CLUSTER_ID"), Some("north"));
    assert_eq!(by_flag.server.credentials.cluster, "north");

    let error = control(&[], &[("ISTIO_METAJSON_X", "{")]).unwrap_err();
    assert!(error.starts_with("ISTIO_METAJSON_X=\"{\": not JSON: "), "{error}");
    for (flag, says) in [
        ("--meta=A", "not of the form KEY=VALUE"),
        ("--meta==b", "not of the form KEY=VALUE"),
        ("--meta=CLUSTER_ID=x", "CLUSTER_ID is told by --cluster-id"),
        ("--meta-json=NETWORK=1", "NETWORK is told by --network"),
        ("--meta-json=A={", "not JSON"),
    ] {
        let error = control(&[flag], &[]).unwrap_err();
        assert!(error.contains(says), "{flag}: {error}");
    }
}

#[test]
fn a_spiffe_socket_is_a_unix_socket() {
    for value in ["unix:///run/a.sock", "unix:/run/a.sock", "/run/a.sock"] {
        let control = control(&["--mode=dedicated", "--spiffe-endpoint-socket", value], &[("SPIFFE_ENDPOINT_SOCKET", "?")]).unwrap();
        assert_eq!(control.spiffe.as_deref(), Some("unix:///run/a.sock"), "{value}");
    }
    for wrong in ["tcp://127.0.0.1:8000", "unix://run/a.sock", "a.sock", "/"] {
        let error = control(&[], &[("SPIFFE_ENDPOINT_SOCKET", wrong)]).unwrap_err();
        assert_eq!(error, format!("SPIFFE_ENDPOINT_SOCKET={wrong:?}: not a socket like unix:///run/spire/agent.sock"));
    }
}

#[test]
fn tls_is_as_strict_as_the_strictest_word() {
    let (tls12, pqc) = (("TLS12_ENABLED", "true"), ("COMPLIANCE_POLICY", "pqc"));
    for (variables, expected) in [
        (&[][..], (false, false)),
        (&[tls12], (true, false)),
        (&[("TLS12_ENABLED", "TRUE")], (false, false)),
        (&[("TLS12_ENABLED", "1")], (false, false)),
        (&[pqc], (false, true)),
        (&[("COMPLIANCE_POLICY", "")], (false, false)),
        (&[tls12, pqc], (false, true)),
    ] {
        let command = ztunnel(&ZTUNNEL, &environment(variables)).unwrap();
        let TlsSettings { tls12, pqc } = command.control.tls;
        assert_eq!((tls12, pqc), expected, "{variables:?}");
        assert_eq!(command.warnings.len(), usize::from(variables.len() == 2), "{:?}", command.warnings);
    }
}
