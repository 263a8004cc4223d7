use super::*;
use crate::{model::Kind, telemetry::ResponseFlag};
use std::time::Duration;

/// What `count` leaves behind in a recorder of its own.
fn rendered(count: impl FnOnce()) -> Vec<String> {
    let recorder = Recorder::default();
    metrics::with_local_recorder(&recorder, count);
    recorder
        .render(MetricsFormat::Prometheus, Vec::new())
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
        .map(str::to_owned)
        .collect()
}

fn reviews() -> WorkloadLabels<'static> {
    WorkloadLabels {
        workload: "reviews-v1",
        canonical_service: "reviews",
        canonical_revision: "v1",
        namespace: "bookinfo",
        principal: "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews",
        app: "reviews",
        version: "v1",
        cluster: "Kubernetes",
        ..WorkloadLabels::default()
    }
}

fn request(flag: ResponseFlag) -> RequestLabels<'static> {
    RequestLabels {
        reporter: Reporter::Waypoint,
        source: WorkloadLabels::default(),
        destination: reviews(),
        service: "reviews.bookinfo.svc.cluster.local",
        service_name: "reviews",
        service_namespace: "bookinfo",
        is_grpc: false,
        response_code: 200,
        grpc_status: None,
        flag,
        security: SecurityPolicy::MutualTls,
    }
}

const SOURCE: &str = "source_workload=\"unknown\",source_canonical_service=\"unknown\",source_canonical_revision=\"latest\",\
    source_workload_namespace=\"unknown\",source_principal=\"unknown\",source_app=\"unknown\",source_version=\"unknown\",\
    source_cluster=\"unknown\"";

#[test]
fn requests_carry_the_labels_of_istio_in_order() {
    let lines = rendered(|| RequestMetrics::resolve(&request(ResponseFlag::None)).record(Duration::from_micros(1500), 10, 2000));
    let labels = format!(
        "reporter=\"waypoint\",{SOURCE},destination_workload=\"reviews-v1\",destination_workload_namespace=\"bookinfo\",\
         destination_principal=\"spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews\",destination_app=\"reviews\",\
         destination_version=\"v1\",destination_service=\"reviews.bookinfo.svc.cluster.local\",destination_canonical_service=\"reviews\",\
         destination_canonical_revision=\"v1\",destination_service_name=\"reviews\",destination_service_namespace=\"bookinfo\",\
         destination_cluster=\"Kubernetes\",request_protocol=\"http\",response_code=\"200\",response_flags=\"-\",\
         connection_security_policy=\"mutual_tls\""
    );
    let has = |line: String| assert!(lines.contains(&line), "missing {line} in\n{}", lines.join("\n"));
    has(format!("istio_requests_total{{{labels}}} 1"));
    has(format!("istio_request_duration_milliseconds_bucket{{{labels},le=\"1\"}} 0"));
    has(format!("istio_request_duration_milliseconds_bucket{{{labels},le=\"5\"}} 1"));
    has(format!("istio_request_duration_milliseconds_sum{{{labels}}} 1.5"));
    has(format!("istio_request_bytes_bucket{{{labels},le=\"100\"}} 1"));
    has(format!("istio_response_bytes_bucket{{{labels},le=\"1000\"}} 0"));
    has(format!("istio_response_bytes_count{{{labels}}} 1"));
}

#[test]
fn grpc_requests_also_carry_their_status() {
    let labels = RequestLabels { is_grpc: true, grpc_status: Some(14), ..request(ResponseFlag::UpstreamConnect) };
    let lines = rendered(|| RequestMetrics::resolve(&labels).record(Duration::ZERO, 0, 0));
    assert!(
        lines
            .iter()
            .any(|l| { l.contains("request_protocol=\"grpc\",response_code=\"200\",grpc_response_status=\"14\",response_flags=\"UF\"") })
    );
}

#[test]
fn connections_carry_the_labels_of_ztunnel_and_their_flag_at_the_end() {
    let labels = TcpLabels {
        reporter: Reporter::Destination,
        source: WorkloadLabels::default(),
        destination: WorkloadLabels { region: "r1", ..reviews() },
        service: "",
        service_name: "",
        service_namespace: "",
        security: SecurityPolicy::None,
    };
    let lines = rendered(|| {
        let connection = TcpSeries::default().open(&labels);
        connection.sent(5);
        connection.received(7);
        connection.close(ResponseFlag::Denied);
    });
    let source = SOURCE.replace("\"latest\"", "\"unknown\"");
    let with = |flag: &str| {
        format!(
            "reporter=\"destination\",{source},destination_service=\"unknown\",destination_service_namespace=\"unknown\",\
             destination_service_name=\"unknown\",destination_workload=\"reviews-v1\",destination_canonical_service=\"reviews\",\
             destination_canonical_revision=\"v1\",destination_workload_namespace=\"bookinfo\",\
             destination_principal=\"spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews\",destination_app=\"reviews\",\
             destination_version=\"v1\",destination_cluster=\"Kubernetes\",request_protocol=\"tcp\",response_flags=\"{flag}\",\
             connection_security_policy=\"unknown\",source_region=\"unknown\",source_zone=\"unknown\",destination_region=\"r1\",\
             destination_zone=\"unknown\""
        )
    };
    let has = |line: String| assert!(lines.contains(&line), "missing {line} in\n{}", lines.join("\n"));
    has(format!("istio_tcp_connections_opened_total{{{}}} 1", with("-")));
    has(format!("istio_tcp_sent_bytes_total{{{}}} 5", with("-")));
    has(format!("istio_tcp_received_bytes_total{{{}}} 7", with("-")));
    has(format!("istio_tcp_connections_closed_total{{{}}} 0", with("-")));
    has(format!("istio_tcp_connections_closed_total{{{}}} 1", with("DENY")));
    has(format!("istio_tcp_connections_failed_total{{{}}} 1", with("DENY")));
}

#[test]
fn rare_events_have_names_and_closed_labels() {
    let mut lines = rendered(|| {
        config_rejected(Some(Kind::HttpRoute));
        config_version(7);
        cert_reload(true);
        cert_reload(false);
        handshake_failure(HandshakeFailure::Identity);
        handshake_failure(HandshakeFailure::Revoked);
        crl_reload(true);
        crl_reload(false);
        crl_rejection(Reporter::Source);
        crl_untracked(Reporter::Destination);
        process::describe();
        component("ztunnel");
    });
    lines.sort();
    assert_eq!(
        lines,
        [
            "cairn_cert_reloads_total{result=\"failed\"} 1",
            "cairn_cert_reloads_total{result=\"ok\"} 1",
            "cairn_config_rejected_total{kind=\"HTTPRoute\"} 1",
            "cairn_config_version 7",
            "cairn_crl_reloads_total{result=\"failed\"} 1",
            "cairn_crl_reloads_total{result=\"ok\"} 1",
            "cairn_handshake_failures_total{reason=\"identity\"} 1",
            "cairn_handshake_failures_total{reason=\"revoked\"} 1",
            concat!("istio_build{component=\"ztunnel\",tag=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "istio_crl_policy_rejections_total{reporter=\"source\"} 1",
            "istio_crl_untracked_connections_total{reporter=\"destination\"} 1",
        ]
    );
}

#[test]
fn a_stream_of_a_control_plane_is_counted_by_type_and_end() {
    let mut lines = rendered(|| {
        let (stream, addresses) = (XdsMetrics::resolve(), XdsTypeMetrics::resolve("type.googleapis.com/istio.workload.Address"));
        stream.connected(true);
        stream.updated(std::time::UNIX_EPOCH + Duration::from_millis(1500));
        addresses.message(100, 0);
        addresses.message(20, 2);
        let ends = [XdsTermination::ConnectionError, XdsTermination::Error, XdsTermination::Reconnect, XdsTermination::Complete];
        for reason in ends {
            stream.terminated(reason);
        }
    });
    lines.sort();
    assert_eq!(
        lines,
        [
            "cairn_xds_connected 1",
            "cairn_xds_last_update_timestamp_seconds 1.5",
            "cairn_xds_rejected_total{url=\"type.googleapis.com/istio.workload.Address\"} 2",
            "istio_xds_connection_terminations_total{reason=\"Complete\"} 1",
            "istio_xds_connection_terminations_total{reason=\"ConnectionError\"} 1",
            "istio_xds_connection_terminations_total{reason=\"Error\"} 1",
            "istio_xds_connection_terminations_total{reason=\"Reconnect\"} 1",
            "istio_xds_message_bytes_total{url=\"type.googleapis.com/istio.workload.Address\"} 120",
            "istio_xds_message_total{url=\"type.googleapis.com/istio.workload.Address\"} 2",
        ]
    );
}

#[test]
fn a_tunnel_is_open_until_its_guard_is_dropped() {
    let open = |lines: &[String]| lines.contains(&"cairn_tunnels_open 1".to_owned());
    assert!(open(&rendered(|| std::mem::forget(Counters::resolve().tunnel()))));
    assert!(!open(&rendered(|| drop(Counters::resolve().tunnel()))));
}

#[test]
fn the_data_path_counts_into_closed_label_sets() {
    let mut lines = rendered(|| drop(Counters::resolve()));
    lines.sort();
    assert_eq!(
        lines,
        [
            "cairn_access_log_dropped_total 0",
            "cairn_authorization_total{result=\"allowed\"} 0",
            "cairn_authorization_total{result=\"denied\"} 0",
            "cairn_authorization_total{result=\"dry_run_denied\"} 0",
            "cairn_retries_refused_total 0",
            "cairn_retries_total 0",
            "cairn_shed_total 0",
            "cairn_tunnels_open 0",
            "cairn_upstream_connects_total{result=\"failed\"} 0",
            "cairn_upstream_connects_total{result=\"ok\"} 0",
        ]
    );
}

#[test]
fn the_process_counts_once_whoever_installs_first() {
    counters().retries_refused.increment(1);
    let text = install().render(MetricsFormat::Prometheus);
    assert!(text.lines().any(|l| l.strip_prefix("cairn_retries_refused_total ").is_some_and(|n| n != "0")), "{text}");
}

/// Every family of a ztunnel (contract, 6.1) with one series each, as it is scraped.
#[test]
fn the_exposition_of_a_ztunnel_is_that_of_istio() {
    let recorder = Recorder::default();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        component("ztunnel");
        let labels = TcpLabels {
            reporter: Reporter::Source,
            source: WorkloadLabels { region: "r1", zone: "z1", ..reviews() },
            destination: WorkloadLabels::default(),
            service: "ratings.bookinfo.svc.cluster.local",
            service_name: "ratings",
            service_namespace: "bookinfo",
            security: SecurityPolicy::MutualTls,
        };
        let connection = TcpSeries::default().open(&labels);
        connection.received(7);
        connection.close(ResponseFlag::Connect);
        let sockets = SocketCounters::resolve();
        std::mem::forget(sockets.source());
        drop(sockets.destination());
        let pods = PodCounters::resolve();
        pods.started.increment(2);
        pods.active.set(1);
        on_demand_dns(&reviews(), "external.example.com");
        let dns = DnsMetrics::resolve(&DnsLabels {
            query_type: "AAAA",
            protocol: DnsProtocol::Udp,
            canonical_service: "reviews",
            canonical_revision: "",
        });
        dns.request();
        dns.upstream(Duration::from_millis(2), true);
    });
    let text = recorder.render(MetricsFormat::OpenMetrics, system::sample_of(&[runtime.metrics()]));
    // What differs from run to run.
    let numbers = |line: &str| match line.split_once(' ') {
        Some((series, _)) if series.starts_with("process_") || series.starts_with("tokio_") => format!("{series} N"),
        _ => line.to_owned(),
    };
    let text: String = text.lines().filter(|l| !l.starts_with("# HELP")).map(|line| numbers(line) + "\n").collect();
    let golden = include_str!("tests/ztunnel.txt");
    assert_eq!(text, golden.replace("VERSION", env!("CARGO_PKG_VERSION")), "the golden file differs from:\n{text}");
}
