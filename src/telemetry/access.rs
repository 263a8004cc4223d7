//! The access log: takes records from the data path and writes them elsewhere.

use super::{
    HttpRecord, Record, TcpRecord, counters,
    format::{write_json, write_text},
};
use std::{fmt, io, str::FromStr, time::Duration};
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
            other => Err(UnknownOption { given: other.into(), allowed: "off, errors, all" }),
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
    mode: AccessLogMode,
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
        Self { mode: AccessLogMode::Off, sink: Sink::None }
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
        Ok(Self { mode, sink: Sink::Writer(send) })
    }

    /// Hands every record over as it is, for tests and for the demo. Bounded like the writer.
    pub fn capture() -> (Self, mpsc::Receiver<Record>) {
        let (send, receive) = mpsc::channel(QUEUE);
        (Self { mode: AccessLogMode::All, sink: Sink::Tap(send) }, receive)
    }

    /// Whether a record with this result would be written: ask before building one.
    pub fn wants(&self, failure: bool) -> bool {
        match self.mode {
            AccessLogMode::Off => false,
            AccessLogMode::Errors => failure,
            AccessLogMode::All => true,
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
        if self.wants(record.is_failure()) {
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
