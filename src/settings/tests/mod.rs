//! What is read from arguments and environment, by theme.

mod control_plane;
mod sources;
mod waypoint;
mod ztunnel;

use super::*;
use crate::transport::socket::Keepalive;
use clap::CommandFactory as _;

const WAYPOINT: [&str; 8] = ["cairn", "waypoint", "--gateway", "ns/gw", "--manifests", "m", "--identity-dir", "i"];
const DEDICATED: [&str; 8] = ["cairn", "ztunnel", "--workload", "ns/pod", "--manifests", "m", "--identity-dir", "i"];
const PROXY: [&str; 3] = ["cairn", "proxy", "ztunnel"];
const LOCAL: [(&str, &str); 2] = [("LOCAL_XDS_PATH", "/mesh.yaml"), ("CAIRN_IDENTITY_DIR", "/certs")];
/// What Istio's chart sets, whatever the values.
const STOCK: [(&str, &str); 13] = [
    ("CA_ADDRESS", "istiod.istio-system.svc:15012"),
    ("XDS_ADDRESS", "istiod.istio-system.svc:15012"),
    ("RUST_LOG", "info"),
    ("RUST_BACKTRACE", "1"),
    ("ISTIO_META_CLUSTER_ID", "east"),
    ("INPOD_ENABLED", "true"),
    ("TERMINATION_GRACE_PERIOD_SECONDS", "30"),
    ("POD_NAME", "ztunnel-x"),
    ("POD_NAMESPACE", "istio-system"),
    ("NODE_NAME", "n1"),
    ("INSTANCE_IP", "10.0.0.7"),
    ("SERVICE_ACCOUNT", "ztunnel"),
    ("ISTIO_META_ENABLE_HBONE", "true"),
];

/// Variables with their values.
type Variables<'a> = &'a [(&'a str, &'a str)];

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().copied().collect::<Environment>().in_directory("/no/such/directory")
}

fn ztunnel(args: &[&str], environment: &Environment) -> Result<Box<ZtunnelCommand>, String> {
    let cli = Cli::read(args, environment).map_err(|error| error.to_string())?;
    let Command::Ztunnel(command) = cli.command else { panic!("wrong command") };
    Ok(command)
}

/// A ztunnel with a local mesh and these variables.
fn node(variables: &[(&str, &str)]) -> Result<Box<ZtunnelCommand>, String> {
    ztunnel(&PROXY, &environment(&[&LOCAL, variables].concat()))
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn defaults_of_flags_are_the_defaults_of_rooms() {
    let Command::Waypoint(waypoint) = Cli::read(WAYPOINT, &environment(&[])).unwrap().command else { panic!("wrong command") };
    let config = waypoint.limits.config(&waypoint.hbone);
    assert_eq!(format!("{config:?}"), format!("{:?}", crate::waypoint::Config::default()));
    let ztunnel = ztunnel(&DEDICATED, &environment(&[])).unwrap();
    assert_eq!(ztunnel.sockets.keepalive(), Keepalive::default());
}

#[test]
fn wrong_values_are_refused() {
    for wrong in [
        ["--hbone-address", "15008"],
        ["--max-requests", "-1"],
        ["--drain-deadline", "ten"],
        ["--drain-deadline", "1.5s"],
        ["--gateway", "no-namespace"],
        ["--gateway", "a/b/c"],
        ["--access-log", "some"],
        ["--path-normalization", "ALL"],
        ["--log", "wran"],
    ] {
        assert!(Cli::read(WAYPOINT.iter().chain(&wrong), &environment(&[])).is_err(), "{wrong:?}");
    }
}

#[test]
fn help_names_the_variables() {
    let Err(UsageError::Arguments(help)) = Cli::read(["cairn", "ztunnel", "--help"], &environment(&LOCAL)) else { panic!("help") };
    let help = help.to_string();
    for name in ["PACKET_MARK", "INPOD_UDS", "LOCAL_XDS_PATH", "KEEPALIVE_TIME", "RUST_LOG", "XDS_ADDRESS", "AUTH_TOKEN", "XDS_HEADER_NAME"]
    {
        assert!(help.contains(&format!("env: {name}")), "{name}");
    }
}
