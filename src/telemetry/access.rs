//! The access log: takes records from the data path and writes them elsewhere.

use super::{
    HttpRecord, Record, TcpEvent, TcpRecord, counters,
    format::{write_json, write_text},
    log::LogHandle,
};
use std::{
    fmt, io,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

#[cfg(test)]
mod tests;

/// Records on their way to the writer. At a megabyte or so this is all a stuck output may cost.
const QUEUE: usize = 4096;
/// Records formatted into one `write`.
const BATCH: usize = 256;

/// Which records are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AccessLogMode {
    /// None.
    Off,
    /// Only failures.
    Errors,
    /// All.
    #[default]
    All,
    /// All, and connections already when they open.
    Debug,
    /// As the filter of the diagnostic log says for the target `access` (see
    /// [`AccessLog::governed_by`]).
    Filter,
}

impl AccessLogMode {
    const CODES: [Self; 5] = [Self::Off, Self::Errors, Self::All, Self::Debug, Self::Filter];
}

/// A mode that others may change while it is read.
#[derive(Debug, Clone, Default)]
pub struct SharedMode(Arc<AtomicU8>);

impl SharedMode {
    pub(super) fn new(mode: AccessLogMode) -> Self {
        let shared = Self::default();
        shared.set(mode);
        shared
    }

    /// The mode now.
    pub fn get(&self) -> AccessLogMode {
        // Only ever set from a mode.
        AccessLogMode::CODES.get(usize::from(self.0.load(Ordering::Relaxed))).copied().unwrap_or_default()
    }

    pub(super) fn set(&self, mode: AccessLogMode) {
        self.0.store(mode as u8, Ordering::Relaxed);
    }
}

/// How records are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// Istio's default text line for requests, ztunnel's plain line for connections.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A word that names no option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not one of {allowed}")]
pub struct UnknownOption {
    given: String,
    allowed: &'static str,
}

impl FromStr for AccessLogMode {
    type Err = UnknownOption;

    fn from_str(text: &str) -> Result<Self, UnknownOption> {
        match text {
            "off" => Ok(Self::Off),
            "errors" => Ok(Self::Errors),
            "all" => Ok(Self::All),
            "debug" => Ok(Self::Debug),
            "filter" => Ok(Self::Filter),
            other => Err(UnknownOption { given: other.into(), allowed: "off, errors, all, debug, filter" }),
        }
    }
}

impl FromStr for AccessLogFormat {
    type Err = UnknownOption;

    fn from_str(text: &str) -> Result<Self, UnknownOption> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(UnknownOption { given: other.into(), allowed: "text, json" }),
        }
    }
}

/// The way into the access log. Cloning is cheap; recording never waits: what the writer cannot
/// take in time is dropped and counted (`cairn_access_log_dropped_total`).
#[derive(Clone, Debug)]
pub struct AccessLog {
    mode: SharedMode,
    sink: Sink,
}

#[derive(Clone)]
enum Sink {
    None,
    Writer(mpsc::Sender<Message>),
    Tap(mpsc::Sender<Record>),
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Writer(_) => "Writer",
            Self::Tap(_) => "Tap",
        })
    }
}

enum Message {
    Record(Record),
    Flush(oneshot::Sender<()>),
}

impl AccessLog {
    /// Writes nothing.
    pub fn off() -> Self {
        Self { mode: SharedMode::new(AccessLogMode::Off), sink: Sink::None }
    }

    /// Writes to standard output.
    ///
    /// # Errors
    /// When the writer's thread cannot be started.
    pub fn stdout(mode: AccessLogMode, format: AccessLogFormat) -> io::Result<Self> {
        Self::to_writer(mode, format, io::stdout())
    }

    /// Writes whole lines to `out`, many at a time, on a thread that ends after the last clone of
    /// the log is dropped.
    ///
    /// # Errors
    /// When the writer's thread cannot be started.
    pub fn to_writer(mode: AccessLogMode, format: AccessLogFormat, out: impl io::Write + Send + 'static) -> io::Result<Self> {
        if mode == AccessLogMode::Off {
            return Ok(Self::off());
        }
        let (send, receive) = mpsc::channel(QUEUE);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(receive, format, out))?;
        Ok(Self { mode: SharedMode::new(mode), sink: Sink::Writer(send) })
    }

    /// Hands every record over as it is, for tests and for the demo. Bounded like the writer.
    pub fn capture() -> (Self, mpsc::Receiver<Record>) {
        let (send, receive) = mpsc::channel(QUEUE);
        (Self { mode: SharedMode::new(AccessLogMode::All), sink: Sink::Tap(send) }, receive)
    }

    /// Whether a record with this result would be written: ask before building one.
    pub fn wants(&self, failure: bool) -> bool {
        match self.mode.get() {
            AccessLogMode::Off => false,
            AccessLogMode::Errors => failure,
            AccessLogMode::All | AccessLogMode::Debug | AccessLogMode::Filter => true,
        }
    }

    /// Whether a record of a connection that opens would be written.
    pub fn wants_opened(&self) -> bool {
        self.mode.get() == AccessLogMode::Debug
    }

    /// In mode [`Filter`](AccessLogMode::Filter), does what the filter of `log` says for the target
    /// `access`, now and after changes: off, errors (warn and error), all (info), or debug.
    #[must_use]
    pub fn governed_by(self, log: &LogHandle) -> Self {
        match self.mode.get() {
            AccessLogMode::Filter => Self { mode: log.access(), ..self },
            AccessLogMode::Off | AccessLogMode::Errors | AccessLogMode::All | AccessLogMode::Debug => self,
        }
    }

    /// Records a request.
    pub fn http(&self, record: HttpRecord) {
        if self.wants(record.is_failure()) {
            self.send(Record::Http(Box::new(record)));
        }
    }

    /// Records a connection.
    pub fn tcp(&self, record: TcpRecord) {
        let wanted = match record.event {
            TcpEvent::Opened => self.wants_opened(),
            TcpEvent::Complete | TcpEvent::Refused => self.wants(record.is_failure()),
        };
        if wanted {
            self.send(Record::Tcp(Box::new(record)));
        }
    }

    /// Waits until everything recorded so far is written, `limit` at the longest.
    pub async fn flush(&self, limit: Duration) {
        if let Sink::Writer(queue) = &self.sink {
            let written = async {
                let (done, wait) = oneshot::channel();
                if queue.send(Message::Flush(done)).await.is_ok() {
                    // An error means that the writer is gone; there is nothing left to wait for.
                    wait.await.ok();
                }
            };
            tokio::time::timeout(limit, written).await.ok();
        }
    }

    fn send(&self, record: Record) {
        let taken = match &self.sink {
            Sink::None => true,
            Sink::Writer(queue) => queue.try_send(Message::Record(record)).is_ok(),
            Sink::Tap(queue) => queue.try_send(record).is_ok(),
        };
        if !taken {
            counters().access_log_dropped.increment(1);
        }
    }
}

fn write_all(mut queue: mpsc::Receiver<Message>, format: AccessLogFormat, mut out: impl io::Write) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut lines = Vec::new();
    while queue.blocking_recv_many(&mut batch, BATCH) > 0 {
        lines.clear();
        let mut records = 0;
        let mut waiting = Vec::new();
        for message in batch.drain(..) {
            match message {
                Message::Record(record) => {
                    records += 1;
                    match format {
                        AccessLogFormat::Text => write_text(&record, &mut lines),
                        AccessLogFormat::Json => write_json(&record, &mut lines),
                    }
                }
                Message::Flush(done) => waiting.push(done),
            }
        }
        if out.write_all(&lines).and_then(|()| out.flush()).is_err() {
            counters().access_log_dropped.increment(records);
        }
        for done in waiting {
            done.send(()).ok();
        }
    }
}
