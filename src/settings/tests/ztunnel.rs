//! `cairn ztunnel`.

use super::*;
use crate::telemetry::AccessLogFormat;

#[test]
fn the_stock_daemon_set_starts_with_a_local_mesh() {
    for words in [&["cairn", "proxy", "ztunnel"][..], &["cairn", "proxy"], &["cairn", "proxy", "a", "--b"], &["cairn", "ztunnel"]] {
        let command = ztunnel(words, &environment(&[&STOCK[..], &LOCAL].concat())).unwrap();
        assert_eq!((command.proxy_mode(), command.packet_mark()), (ProxyMode::Shared, Some(1337)));
        assert_eq!(command.pod.node.as_deref(), Some("n1"));
        assert_eq!(command.pod.cluster_id, "east");
        assert_eq!(command.pod.instance_ip, Some("10.0.0.7".parse().unwrap()));
        assert_eq!(command.process.drain_deadline, Duration::from_secs(25));
        assert_eq!(command.listeners.socks5_address, ListenAddress::Off);
        assert!(command.dns.enabled && command.sockets.preserve_source.is_none());
        assert_eq!(
            command.warnings,
            [
                "without effect: XDS_ADDRESS (the mesh is described elsewhere, no control plane is asked for it)",
                "without effect: CA_ADDRESS (certificates come from --identity-dir)"
            ]
        );
        assert!(command.control.xds.is_none() && command.control.ca.is_none());
    }
}

#[test]
fn dedicated_usage_is_as_it_was() {
    let command = ztunnel(&DEDICATED, &environment(&[])).unwrap();
    assert_eq!((command.proxy_mode(), command.packet_mark()), (ProxyMode::Dedicated, None));
    assert_eq!(command.listeners.socks5_address, ListenAddress::At("127.0.0.1:15080".parse().unwrap()));
    assert_eq!(command.process.drain_deadline, Duration::from_secs(5));
    assert!(command.warnings.is_empty());
    let only = ["cairn", "ztunnel", "--mode", "dedicated", "--manifests", "m", "--identity-dir", "i", "--preserve-source"];
    let command = ztunnel(&only, &environment(&[])).unwrap();
    assert_eq!((command.proxy_mode(), command.sockets.preserve_source), (ProxyMode::Dedicated, Some(true)));
}

/// Each variable, a value of it, the flag that says the same, and what shows it.
type Row = (&'static str, &'static str, &'static str, fn(&ZtunnelCommand) -> String);

macro_rules! rows {
    ($($name:literal = $value:literal, $flag:literal, $($field:tt).+ => $shown:literal;)*) => {
        [$(($name, $value, $flag, (|c| format!("{:?}", c.$($field).+)) as fn(&ZtunnelCommand) -> String, $shown)),*]
    };
}

#[test]
fn every_variable_is_read_and_its_flag_wins() {
    let rows = rows! {
        "PROXY_MODE" = "shared", "--mode=shared", mode => "Some(Shared)";
        "LOCAL_XDS_PATH" = "/a.yaml", "--local-xds=/a.yaml", local_xds => "Some(\"/a.yaml\")";
        "NODE_NAME" = "n", "--node=n", pod.node => "Some(\"n\")";
        "NETWORK" = "net1", "--network=net1", pod.network => "\"net1\"";
        "CLUSTER_ID" = "c", "--cluster-id=c", pod.cluster_id => "\"c\"";
        "POD_NAME" = "p", "--pod-name=p", pod.pod_name => "Some(\"p\")";
        "POD_NAMESPACE" = "p", "--pod-namespace=p", pod.pod_namespace => "Some(\"p\")";
        "SERVICE_ACCOUNT" = "s", "--service-account=s", pod.service_account => "Some(\"s\")";
        "INSTANCE_IP" = "fd00::1", "--instance-ip=fd00::1", pod.instance_ip => "Some(fd00::1)";
        "INPOD_UDS" = "/s", "--inpod-socket=/s", inpod_socket => "\"/s\"";
        "INPOD_PORT_REUSE" = "false", "--inpod-port-reuse=false", sockets.inpod_port_reuse => "false";
        "PACKET_MARK" = "0x53a", "--packet-mark=1338", sockets.packet_mark => "Some(1338)";
        "ENABLE_ORIG_SRC" = "false", "--preserve-source=false", sockets.preserve_source => "Some(false)";
        "IPV6_ENABLED" = "false", "--ipv6=false", sockets.ipv6 => "false";
        "KEEPALIVE_ENABLED" = "false", "--keepalive=false", sockets.keepalive => "false";
        "KEEPALIVE_TIME" = "30s", "--keepalive-time=30s", sockets.keepalive_time => "30s";
        "KEEPALIVE_INTERVAL" = "5m", "--keepalive-interval=5m", sockets.keepalive_interval => "300s";
        "KEEPALIVE_RETRIES" = "3", "--keepalive-retries=3", sockets.keepalive_retries => "3";
        "USER_TIMEOUT_ENABLED" = "true", "--user-timeout=true", sockets.user_timeout => "true";
        "HTTP2_STREAM_WINDOW_SIZE" = "65535", "--stream-window=65535", hbone.stream_window => "65535";
        "HTTP2_CONNECTION_WINDOW_SIZE" = "65536", "--connection-window=65536", hbone.connection_window => "65536";
        "HTTP2_FRAME_SIZE" = "16384", "--max-frame-size=16384", hbone.max_frame_size => "16384";
        "POOL_MAX_STREAMS_PER_CONNECTION" = "7", "--max-streams-per-tunnel=7", hbone.max_streams_per_tunnel => "7";
        "POOL_UNUSED_RELEASE_TIMEOUT" = "1m", "--tunnel-idle-timeout=1m", hbone.tunnel_idle_timeout => "60s";
        "UNSTABLE_ENABLE_SOCKS5" = "true", "--socks5=true", socks5 => "Some(true)";
        "ISTIO_META_DNS_CAPTURE" = "no", "--dns=false", dns.enabled => "false";
        "ISTIO_META_DNS_PROXY_ADDR" = "127.0.0.2:53", "--dns-address=127.0.0.2:53", dns.address => "At(127.0.0.2:53)";
        "PREFERED_SERVICE_NAMESPACE" = "x", "--preferred-service-namespace=x", dns.preferred_service_namespace => "Some(\"x\")";
        "LOCALHOST_APP_TUNNEL" = "false", "--localhost-app-tunnel=false", localhost_app_tunnel => "false";
        "ENABLE_RESPONSE_BAGGAGE" = "false", "--response-baggage=false", response_baggage => "false";
        "AUTHZ_POLICY_INFO_LOGGING" = "true", "--authz-policy-info-logging=true", authz_policy_info_logging => "true";
        "CAIRN_REQUIRE_WAYPOINT" = "true", "--require-waypoint", require_waypoint => "true";
        "CAIRN_MAX_TUNNEL_AGE" = "9s", "--max-tunnel-age=9s", hbone.max_tunnel_age => "9s";
        "CAIRN_ROTATION_SPREAD" = "9s", "--rotation-spread=9s", hbone.rotation_spread => "9s";
        "CAIRN_MAX_TUNNELS_PER_PEER" = "9", "--max-tunnels-per-peer=9", hbone.max_tunnels_per_peer => "9";
        "SECRET_TTL" = "1h", "--secret-ttl=1h", control.secret_ttl => "3600s";
        "CRL_PATH" = "/crl.pem", "--crl-path=/crl.pem", control.crl => "Some(\"/crl.pem\")";
        "TLS12_ENABLED" = "true", "--tls12=true", control.tls.tls12 => "true";
        "COMPLIANCE_POLICY" = "pqc", "--compliance-policy=pqc", control.tls.pqc => "true";
        "CLUSTER_DOMAIN" = "c.test", "--cluster-domain=c.test", mesh.names.cluster_domain => "\"c.test\"";
        "TRUST_DOMAIN" = "t.test", "--trust-domain=t.test", mesh.names.trust_domain => "\"t.test\"";
        "RUST_LOG" = "debug", "--log=debug", process.log => "Some(\"debug\")";
        "CONNECTION_TERMINATION_DEADLINE" = "9s", "--drain-deadline=9s", process.drain_deadline => "9s";
        "ZTUNNEL_WORKER_THREADS" = "3", "--worker-threads=3", process.worker_threads => "Some(3)";
    };
    for (name, value, flag, show, shown) in rows {
        let row: Row = (name, value, flag, show);
        let mut variables = LOCAL.to_vec();
        variables.retain(|(known, _)| *known != name);
        let read = |args: &[&str], more: &[(&str, &str)]| {
            let base: Vec<_> =
                variables.iter().copied().filter(|(k, _)| !(flag.starts_with("--local-xds") && *k == "LOCAL_XDS_PATH")).collect();
            row.3(&ztunnel(args, &environment(&[&base[..], more].concat())).unwrap_or_else(|error| panic!("{name}: {error}")))
        };
        assert_eq!(read(&PROXY, &[(name, value)]), if name == "PACKET_MARK" { "Some(1338)" } else { shown }, "{name}");
        if !flag.starts_with("--local-xds") {
            assert_ne!(read(&PROXY, &[]), shown, "{name}: the value is the default, so it shows nothing");
            assert_eq!(read(&PROXY, &[(name, "")]), read(&PROXY, &[]), "{name}: empty is not set");
        }
        assert_eq!(read(&["cairn", "ztunnel", flag], &[]), shown, "{flag}");
        // These are looked at before flags are, since others follow from them.
        if !["ZTUNNEL_WORKER_THREADS", "CONNECTION_TERMINATION_DEADLINE"].contains(&name) {
            assert_eq!(read(&["cairn", "ztunnel", flag], &[(name, "?")]), shown, "{flag} wins");
        }
    }
}

#[test]
fn a_bad_value_is_named_with_its_reason() {
    let rows = [
        ("PROXY_MODE", "sidecar", "shared, dedicated"),
        ("PROXY_WORKLOAD_INFO", "ns/pod/account/more", "NAMESPACE/NAME/SERVICE_ACCOUNT"),
        ("PROXY_WORKLOAD_INFO", "ns//sa", "NAMESPACE/NAME/SERVICE_ACCOUNT"),
        ("INSTANCE_IP", "here", "invalid IP address"),
        ("PACKET_MARK", "0", "marks nothing"),
        ("PACKET_MARK", "0x1ffffffff", "not a number of 32 bits"),
        ("ENABLE_ORIG_SRC", "yes", "neither true nor false"),
        ("IPV6_ENABLED", "1", "neither true nor false"),
        ("INPOD_PORT_REUSE", "TRUE", "neither true nor false"),
        ("KEEPALIVE_TIME", "30", "not a duration"),
        ("KEEPALIVE_RETRIES", "0", "is not in 1..=127"),
        ("KEEPALIVE_RETRIES", "128", "is not in 1..=127"),
        ("SECRET_TTL", "a day", "not a duration"),
        ("SECRET_TTL", "0s", "2s at least"),
        ("SECRET_TTL", "1999ms", "2s at least"),
        ("POOL_UNUSED_RELEASE_TIMEOUT", "-5m", "not a duration"),
        ("POOL_MAX_STREAMS_PER_CONNECTION", "many", "invalid digit"),
        ("HTTP2_FRAME_SIZE", "16383", "is not in 16384..=16777215"),
        ("ISTIO_META_DNS_PROXY_ADDR", "localhost", "neither ADDRESS:PORT nor localhost:PORT"),
        ("CONNECTION_TERMINATION_DEADLINE", "5", "not a duration"),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "30s", "not a number of seconds"),
        ("ZTUNNEL_WORKER_THREADS", "0%", "more than 0%"),
        ("ZTUNNEL_WORKER_THREADS", "101%", "at most 100%"),
        ("ZTUNNEL_WORKER_THREADS", "-1", "neither a number of threads"),
        ("ZTUNNEL_CPU_LIMIT", "2Gi", "not a quantity of CPU"),
        ("ZTUNNEL_RESOURCE_CPU_REQUEST", "m", "not a quantity of CPU"),
        ("RUST_LOG", "loud", "not a log filter"),
        ("LOG_FORMAT", "xml", "neither plain nor json"),
        ("XDS_ON_DEMAND", "maybe", "neither true nor false"),
        ("FAKE_CA", "true", "no built-in CA"),
        ("FAKE_CA", "1", "neither true nor false"),
        ("COMPLIANCE_POLICY", "fips-140-2", "another build"),
        ("COMPLIANCE_POLICY", "PQC", "not a policy that is known"),
        ("ENABLE_PROXY", "false", "not supported"),
    ];
    for (name, value, reason) in rows {
        let error = node(&[(name, value)]).expect_err(name);
        assert!(error.starts_with(&format!("{name}={value:?}: ")) && error.contains(reason), "{name}={value}: {error}");
    }
}

#[test]
fn what_asks_for_nothing_special_is_accepted() {
    let rows = [
        ("XDS_ON_DEMAND", "false"),
        ("FAKE_CA", "false"),
        ("TLS12_ENABLED", "TRUE"),
        ("ENABLE_PROXY", "true"),
        ("COMPLIANCE_POLICY", ""),
        ("SOME_FUTURE_VARIABLE", "x"),
        ("LOG_FORMAT", "plain"),
    ];
    for row in rows {
        assert!(node(&[row]).is_ok_and(|command| command.warnings.is_empty()), "{row:?}");
    }
    for name in ["XDS_ROOT_CA", "ALT_XDS_HOSTNAME", "XDS_HEADER_x-tenant", "CA_ROOT_CA", "ALT_CA_HOSTNAME", "CA_HEADER_a", "AUTH_TOKEN"] {
        let command = node(&[(name, "x")]).unwrap();
        assert!(command.warnings.len() == 1 && command.warnings[0].contains(name), "{name}: {:?}", command.warnings);
    }
}

#[test]
fn a_workload_is_named_in_dedicated_mode_only() {
    let named = [("PROXY_WORKLOAD_INFO", "demo/server/server-sa")];
    let command = node(&named).unwrap();
    let workload = WorkloadName { name: ResourceName::new("demo", "server"), service_account: Some("server-sa".to_owned()) };
    assert_eq!((command.proxy_mode(), &command.workload), (ProxyMode::Dedicated, &Some(workload)));
    let error = node(&[named[0], ("PROXY_MODE", "shared")]).unwrap_err();
    assert!(error.contains("PROXY_WORKLOAD_INFO") && error.contains("shared"), "{error}");
}

#[test]
fn socks5_is_served_unasked_only_where_one_tries_things_out() {
    let (manifests, dedicated) = (("CAIRN_MANIFESTS", "m"), ("PROXY_MODE", "dedicated"));
    let local = ("LOCAL_XDS_PATH", "/mesh.yaml");
    let at = ListenAddress::At("127.0.0.1:15080".parse().unwrap());
    for (mesh, mode, unasked) in [
        (manifests, Some(dedicated), at),
        (local, Some(dedicated), ListenAddress::Off),
        (manifests, None, ListenAddress::Off),
        (local, None, ListenAddress::Off),
    ] {
        for (asked, expected) in [(None, unasked), (Some("true"), at), (Some("false"), ListenAddress::Off)] {
            let variables: Vec<_> = [("CAIRN_IDENTITY_DIR", "/certs"), mesh]
                .into_iter()
                .chain(mode)
                .chain(asked.map(|asked| ("UNSTABLE_ENABLE_SOCKS5", asked)))
                .collect();
            let command = ztunnel(&["cairn", "ztunnel"], &environment(&variables)).unwrap();
            assert_eq!(command.listeners.socks5_address, expected, "{variables:?}");
        }
    }
}

#[test]
fn the_drain_ends_before_the_kubelet_kills() {
    let rows: [(&[(&str, &str)], u64); 8] = [
        (&[], 5),
        (&[("TERMINATION_GRACE_PERIOD_SECONDS", "30")], 25),
        (&[("TERMINATION_GRACE_PERIOD_SECONDS", "11")], 6),
        (&[("TERMINATION_GRACE_PERIOD_SECONDS", "10")], 9),
        (&[("TERMINATION_GRACE_PERIOD_SECONDS", "2")], 1),
        (&[("TERMINATION_GRACE_PERIOD_SECONDS", "1")], 1),
        (&[("TERMINATION_GRACE_PERIOD_SECONDS", "0")], 1),
        (&[("TERMINATION_GRACE_PERIOD_SECONDS", "30"), ("CONNECTION_TERMINATION_DEADLINE", "2m")], 120),
    ];
    for (variables, seconds) in rows {
        assert_eq!(node(variables).unwrap().process.drain_deadline, Duration::from_secs(seconds), "{variables:?}");
    }
}

#[test]
fn worker_threads_follow_limit_request_and_share() {
    let cores = ("ZTUNNEL_CPU_LIMIT", "10");
    let rows: [(&[(&str, &str)], usize); 14] = [
        (&[cores], 3),
        (&[("ZTUNNEL_CPU_LIMIT", "1")], 2),
        (&[("ZTUNNEL_CPU_LIMIT", "1500m")], 2),
        (&[("ZTUNNEL_CPU_LIMIT", "64")], 16),
        (&[cores, ("ZTUNNEL_RESOURCE_CPU_REQUEST", "4500m")], 5),
        (&[cores, ("ZTUNNEL_RESOURCE_CPU_REQUEST", "500m")], 3),
        (&[cores, ("ZTUNNEL_RESOURCE_CPU_LIMIT", "500m")], 1),
        (&[cores, ("ZTUNNEL_RESOURCE_CPU_LIMIT", "6")], 6),
        (&[cores, ("ZTUNNEL_RESOURCE_CPU_LIMIT", "2"), ("ZTUNNEL_RESOURCE_CPU_REQUEST", "3")], 3),
        (&[cores, ("ZTUNNEL_WORKER_THREADS", "25%")], 3),
        (&[cores, ("ZTUNNEL_WORKER_THREADS", "1%")], 1),
        (&[cores, ("ZTUNNEL_WORKER_THREADS", "0")], 10),
        (&[cores, ("ZTUNNEL_WORKER_THREADS", "7"), ("ZTUNNEL_RESOURCE_CPU_LIMIT", "2")], 7),
        (&[cores, ("PROXY_CONFIG", "concurrency: 4"), ("ZTUNNEL_RESOURCE_CPU_LIMIT", "2")], 4),
    ];
    for (variables, threads) in rows {
        assert_eq!(node(variables).unwrap().process.worker_threads, Some(threads), "{variables:?}");
    }
}

const PROXY_CONFIG: &str = "{discoveryAddress: istiod-rev:15012, proxyAdminPort: 15999, concurrency: 2,
  proxyMetadata: {ISTIO_META_DNS_CAPTURE: 'false', CLUSTER_ID: pc, OTHER: x}, tracing: {sampling: 1}}";
const MESH_CONFIG: &str = "rootNamespace: istio-system
defaultConfig:
  discoveryAddress: istiod-mesh:15012
  proxyAdminPort: 15099
  statsPort: 15888
  proxyMetadata:
    ISTIO_META_DNS_CAPTURE: true
    ISTIO_META_DNS_PROXY_ADDR: localhost:53
";

#[test]
fn mesh_configuration_yields_to_proxy_config_and_both_to_variables() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("etc/istio/config/mesh");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, MESH_CONFIG).unwrap();
    let read = |variables: &[(&str, &str)]| {
        let all = environment(&[&LOCAL, variables].concat()).in_directory(dir.path());
        ztunnel(&PROXY, &all).unwrap()
    };
    let at = |text: &str| ListenAddress::At(text.parse().unwrap());
    let command = read(&[]);
    assert_eq!(command.listeners.admin.metrics_address, at("[::]:15888"));
    assert_eq!(command.listeners.admin.admin_address, at("127.0.0.1:15099"));
    assert_eq!((command.dns.enabled, command.dns.address), (true, PodAddress::Localhost(53)));
    assert!(command.warnings[0].contains("defaultConfig") || command.warnings[0].contains("discoveryAddress"), "{:?}", command.warnings);

    let command = read(&[("PROXY_CONFIG", PROXY_CONFIG)]);
    assert_eq!(command.listeners.admin.admin_address, at("127.0.0.1:15999"));
    assert_eq!((command.dns.enabled, command.dns.address), (false, PodAddress::Localhost(53)));
    assert_eq!((command.pod.cluster_id.as_str(), command.process.worker_threads), ("pc", Some(2)));

    let command = read(&[("PROXY_CONFIG", PROXY_CONFIG), ("ISTIO_META_DNS_CAPTURE", "True"), ("ZTUNNEL_WORKER_THREADS", "5")]);
    assert_eq!((command.dns.enabled, command.process.worker_threads), (true, Some(5)));

    for (text, says) in [("a: [", "line "), ("statsPort: high", "statsPort"), ("proxyMetadata: {A: [1]}", "proxyMetadata.A")] {
        let error = node(&[("PROXY_CONFIG", text)]).unwrap_err();
        assert!(error.starts_with("PROXY_CONFIG") && error.contains(says), "{error}");
    }
    std::fs::write(&file, "defaultConfig: 7").unwrap();
    let error = ztunnel(&PROXY, &environment(&LOCAL).in_directory(dir.path())).unwrap_err();
    assert!(error.contains("mesh: defaultConfig"), "{error}");
}

#[test]
fn without_ipv6_the_wildcards_are_of_ipv4() {
    let listeners = node(&[("IPV6_ENABLED", "false"), ("CAIRN_ADMIN_ADDRESS", "[::1]:15000")]).unwrap().listeners;
    let at = |text: &str| ListenAddress::At(text.parse().unwrap());
    assert_eq!(
        [listeners.hbone_address, listeners.plaintext_address, listeners.outbound_address],
        [15008, 15006, 15001].map(|p| at(&format!("0.0.0.0:{p}")))
    );
    assert_eq!([listeners.admin.metrics_address, listeners.admin.admin_address], [at("0.0.0.0:15020"), at("[::1]:15000")]);
}

#[test]
fn the_log_format_holds_for_both_logs() {
    let process = node(&[("LOG_FORMAT", "json")]).unwrap().process;
    assert_eq!((process.log_json, process.access_log_format), (true, AccessLogFormat::Json));
    let process = node(&[("LOG_FORMAT", "json"), ("CAIRN_ACCESS_LOG_FORMAT", "text")]).unwrap().process;
    assert_eq!(process.access_log_format, AccessLogFormat::Text);
}
