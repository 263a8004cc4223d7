//! The command as a shell sees it: help, exit statuses, files.

use crate::support::{
    Net, Process,
    manifests::*,
    mesh::NS,
    process::{cairn, prepare, run, waypoint},
};
use std::path::Path;

fn echo() -> String {
    service(NS, "echo", 10, &[("http", 80, 8080)])
}

/// Neither the file nor its kind of error.
const BROKEN: &str = "---\napiVersion: v1\nkind: Service\nmetadata: {name: broken, namespace: app}\nspec: {ports: [{port: 0}]}\n";

#[tokio::test]
async fn help_tells_the_exit_statuses() {
    let mut command = cairn();
    command.arg("--help");
    let output = run(command).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text.contains("Exit status: 0 done, 1 failed while running, 2 wrong usage or configuration."), "{text}");
    let mut command = cairn();
    command.arg("--version");
    assert_eq!(run(command).await.status.code(), Some(0));
}

#[tokio::test]
async fn wrong_usage_and_configuration_are_status_two_and_say_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::new();
    prepare(dir.path(), &net.fill(&echo()), net);
    let certs = dir.path().join("certs");
    let broken = dir.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("a.yaml"), BROKEN).unwrap();
    let half = dir.path().join("half");
    std::fs::create_dir(&half).unwrap();
    std::fs::copy(certs.join("app/waypoint/cert-chain.pem"), half.join("cert-chain.pem")).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let rows: [(&str, Vec<String>, &str); 9] = [
        ("an unknown flag", vec!["--no-such-flag".into()], "--no-such-flag"),
        ("a bad value", vec!["--drain-deadline".into(), "soon".into()], "--drain-deadline"),
        ("an invalid manifest", vec!["--manifests".into(), text(&broken)], "1 errors in the manifests"),
        ("a missing manifest", vec!["--manifests".into(), "/no/such".into()], "/no/such"),
        ("a missing identity", vec!["--identity-dir".into(), text(dir.path())], "cert-chain.pem"),
        ("half an identity", vec!["--identity-dir".into(), text(&half)], "key.pem"),
        ("an unknown gateway", vec!["--gateway".into(), "app/other".into()], "Gateway app/other is not among the manifests"),
        ("an address that is taken", vec!["--metrics-address".into(), taken], "cannot listen"),
        ("an address that is none", vec!["--hbone-address".into(), "15008".into()], "--hbone-address"),
    ];
    for (what, args, says) in rows {
        let mut command = cairn();
        command.arg("waypoint");
        let mut given = |flag: &str, value: String| {
            // clap takes single-valued flags once.
            if !args.iter().any(|a| a == flag) || flag == "--manifests" {
                command.args([flag, &value]);
            }
        };
        given("--gateway", "app/waypoint".into());
        given("--manifests", text(&dir.path().join("manifests")));
        given("--identity-dir", text(&certs.join("app/waypoint")));
        given("--hbone-address", net.addr(3, 0).to_string());
        for flag in ["--metrics-address", "--readiness-address", "--admin-address"] {
            given(flag, "127.0.0.1:0".into());
        }
        command.args(&args);
        let output = run(command).await;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{what}: {errors}");
        assert!(errors.contains(says), "{what}: {errors}");
    }
    let output = run(cairn()).await;
    assert_eq!(output.status.code(), Some(2), "no command");
}

#[tokio::test]
async fn a_ztunnel_that_cannot_do_what_its_environment_asks_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::new();
    prepare(dir.path(), "", net);
    let certs = dir.path().join("certs/app/waypoint");
    let certs = certs.to_str().unwrap();
    let rows = [
        (vec![("XDS_ADDRESS", "http://istiod:15010")], "XDS_ADDRESS=\"http://istiod:15010\": "),
        (vec![("XDS_ADDRESS", "")], "no mesh: XDS_ADDRESS is off"),
        (vec![("LOCAL_XDS", "workloads: []"), ("CA_ADDRESS", "")], "no certificates: "),
        (vec![("FAKE_CA", "true")], "FAKE_CA=\"true\": "),
        (vec![("KEEPALIVE_TIME", "soon")], "KEEPALIVE_TIME=\"soon\": "),
        (vec![("LOCAL_XDS", "workload: []"), ("CAIRN_IDENTITY_DIR", certs)], "1 errors in the local mesh"),
    ];
    for (variables, says) in rows {
        let mut command = cairn();
        command.args(["proxy", "ztunnel"]).envs(variables);
        let output = run(command).await;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.lines().last().is_some_and(|last| last.starts_with("cairn: ") && last.contains(says)), "{errors}");
    }
}

#[tokio::test]
async fn an_invalid_manifest_is_fatal_at_start_unless_lenient() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::new();
    prepare(dir.path(), &(net.fill(&echo()) + BROKEN), net);
    let mut command = waypoint(dir.path());
    command.args(["--hbone-address", &net.addr(3, 0).to_string()]);
    let output = run(command).await;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(errors.contains("mesh.yaml:") && errors.contains("Service app/broken"), "file and resource: {errors}");
    let process = Process::start(&(echo() + BROKEN), &["--lenient"]).await;
    let dump = process.ask("admin", "/config_dump").await;
    assert!(dump.contains("\"bound\": true") && dump.contains("echo.app.svc.cluster.local") && dump.contains("app/broken"), "{dump}");
}

#[tokio::test]
async fn port_zero_takes_free_ports_and_the_file_names_them() {
    let process = Process::start(&echo(), &[]).await;
    let names: Vec<&str> = process.bound.keys().map(String::as_str).collect();
    assert_eq!(names, ["admin", "hbone", "metrics", "readiness"]);
    assert!(process.bound.values().all(|a| a.port() != 0));
    assert!(process.ask("readiness", "/healthz/ready").await.starts_with("HTTP/1.1 200"));
    assert!(process.ask("metrics", "/metrics").await.contains("cairn_config_version 1"));
}

#[tokio::test]
async fn check_tells_by_its_status() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::new();
    prepare(dir.path(), &net.fill(&echo()), net);
    let manifests = dir.path().join("manifests");
    for (text, status) in [(String::new(), 0), (BROKEN.to_owned(), 2), ("kind: [".to_owned(), 2)] {
        std::fs::write(manifests.join("more.yaml"), &text).unwrap();
        let mut command = cairn();
        command.arg("check").arg(&manifests);
        let output = run(command).await;
        assert_eq!(output.status.code(), Some(status), "{text:?}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[tokio::test]
async fn certs_are_made_and_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    for (args, status) in [(&["app/waypoint", "app/client"][..], 0), (&["no-namespace"], 2), (&[], 2)] {
        let mut command = cairn();
        command.args(["certs", "--out"]).arg(dir.path().join("made")).args(args);
        assert_eq!(run(command).await.status.code(), Some(status), "{args:?}");
    }
    for file in ["roots.pem", "ca-key.pem", "app/waypoint/cert-chain.pem", "app/client/key.pem"] {
        assert!(dir.path().join("made").join(file).exists(), "{file}");
    }
}

#[tokio::test]
async fn the_heap_is_profiled_while_that_is_active() {
    let process = Process::start(&echo(), &[]).await;
    let profiling = "/debug/pprof/heap/profiling";
    assert!(process.ask("admin", "/debug/pprof/heap").await.starts_with("HTTP/1.1 500"));
    assert!(process.ask("admin", &format!("{profiling}?activate=true")).await.ends_with("heap profiling is active\n"));
    let profile = process.fetch("admin", "/debug/pprof/heap").await;
    let text = String::from_utf8_lossy(&profile).into_owned();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("inuse_space"), "{text}");
    assert!(process.ask("admin", &format!("{profiling}?activate=false")).await.ends_with("heap profiling is not active\n"));
    assert!(process.ask("admin", "/debug/pprof/heap").await.starts_with("HTTP/1.1 500"));
    assert!(process.ask("readiness", "/healthz/ready").await.starts_with("HTTP/1.1 200"));
}
