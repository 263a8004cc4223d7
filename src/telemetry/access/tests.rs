use super::*;
use crate::telemetry::{Direction, ResponseFlag, TcpParty};
use http::StatusCode;
use std::{
    io::Write,
    sync::{Arc, Mutex, mpsc as std_mpsc},
    time::SystemTime,
};

fn record(status: StatusCode) -> HttpRecord {
    HttpRecord { status: Some(status), ..HttpRecord::new(SystemTime::UNIX_EPOCH, "127.0.0.1:1".parse().unwrap()) }
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn every_line_recorded_before_a_flush_is_written_by_it() {
    let out = Shared::default();
    let log = AccessLog::to_writer(AccessLogMode::All, AccessLogFormat::Json, out.clone()).unwrap();
    for _ in 0..1000 {
        log.http(record(StatusCode::OK));
    }
    log.flush(Duration::from_secs(10)).await;
    let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 1000);
    assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
}

#[tokio::test]
async fn mode_errors_keeps_failures_only() {
    let out = Shared::default();
    let log = AccessLog::to_writer(AccessLogMode::Errors, AccessLogFormat::Text, out.clone()).unwrap();
    log.http(record(StatusCode::OK));
    log.http(record(StatusCode::FORBIDDEN));
    log.http(HttpRecord { grpc_status: Some(14), ..record(StatusCode::OK) });
    log.http(HttpRecord { flag: ResponseFlag::DownstreamDisconnected, ..record(StatusCode::OK) });
    log.flush(Duration::from_secs(10)).await;
    let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
}

/// Accepts its first write only after it is told to.
struct Stuck(std_mpsc::Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.recv().ok();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stuck_output_costs_lines_and_never_time() {
    let (release, wait) = std_mpsc::channel();
    let log = AccessLog::to_writer(AccessLogMode::All, AccessLogFormat::Text, Stuck(wait)).unwrap();
    for _ in 0..QUEUE * 2 {
        log.http(record(StatusCode::OK));
    }
    let text = crate::telemetry::install().render(crate::telemetry::MetricsFormat::Prometheus);
    let dropped = text.lines().find_map(|l| l.strip_prefix("cairn_access_log_dropped_total ")).unwrap();
    assert!(dropped.parse::<usize>().unwrap() >= QUEUE - BATCH, "{dropped}");
    drop(release);
}

#[tokio::test]
async fn a_capture_yields_the_records_themselves() {
    let (log, mut records) = AccessLog::capture();
    log.http(record(StatusCode::NOT_FOUND));
    let Some(Record::Http(seen)) = records.recv().await else { panic!("a request was recorded") };
    assert_eq!(seen.status, Some(StatusCode::NOT_FOUND));
}

#[test]
fn options_are_read_from_words() {
    assert_eq!("errors".parse(), Ok(AccessLogMode::Errors));
    assert_eq!("json".parse(), Ok(AccessLogFormat::Json));
    let error = "loud".parse::<AccessLogMode>().unwrap_err();
    assert_eq!(error.to_string(), "\"loud\" is not one of off, errors, all, debug, filter");
    assert!(!AccessLog::off().wants(true));
    assert_eq!("filter".parse(), Ok(AccessLogMode::Filter));
}

#[tokio::test]
async fn connections_that_open_are_written_in_mode_debug_only() {
    let opened = || TcpRecord {
        event: TcpEvent::Opened,
        time: SystemTime::UNIX_EPOCH,
        source: TcpParty::new("127.0.0.1:1".parse().unwrap()),
        destination: TcpParty::new("127.0.0.1:2".parse().unwrap()),
        hbone_addr: None,
        destination_service: None,
        direction: Direction::Inbound,
        bytes_sent: 0,
        bytes_recv: 0,
        duration: Duration::ZERO,
        flag: ResponseFlag::None,
        error: None,
    };
    for (mode, lines) in [(AccessLogMode::All, 1), (AccessLogMode::Debug, 2), (AccessLogMode::Errors, 0)] {
        let out = Shared::default();
        let log = AccessLog::to_writer(mode, AccessLogFormat::Text, out.clone()).unwrap();
        log.tcp(opened());
        log.tcp(TcpRecord { event: TcpEvent::Complete, ..opened() });
        log.flush(Duration::from_secs(10)).await;
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), lines, "{mode:?}: {text}");
    }
}
