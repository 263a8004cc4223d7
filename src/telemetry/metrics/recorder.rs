//! What is behind the handles: numbers that are counted in place, and their text for Prometheus.
//!
//! Histograms have fixed boundaries, so a sample costs two additions wherever it comes from, and a
//! series has the same size whether it is scraped or not.

use metrics::{Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Collects what is counted. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Recorder(Arc<Registry>);

#[derive(Debug, Default)]
struct Registry {
    counters: Mutex<Series<Count>>,
    gauges: Mutex<Series<Level>>,
    histograms: Mutex<Series<Buckets>>,
    help: Mutex<BTreeMap<String, SharedString>>,
}

// In the order of names and labels, so that the text is the same whatever came first.
type Series<T> = BTreeMap<Arc<Key>, Arc<T>>;

#[derive(Debug, Default)]
struct Count(AtomicU64);

/// The bits of a number.
#[derive(Debug, Default)]
struct Level(AtomicU64);

/// Samples by the first boundary that is not below them; the last place is for those beyond all.
#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    sum: Level,
}

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }
}

impl Level {
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    fn add(&self, value: f64) {
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // Never fails: the closure always has an answer.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

impl GaugeFn for Level {
    fn increment(&self, value: f64) {
        self.add(value);
    }

    fn decrement(&self, value: f64) {
        self.add(-value);
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

impl Buckets {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: Level::default() }
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        self.sum.add(value);
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
        self.describe(&name, text);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
        self.describe(&name, text);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
        self.describe(&name, text);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(series(&self.0.counters, key, Count::default))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(series(&self.0.gauges, key, Level::default))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(series(&self.0.histograms, key, || Buckets::new(super::bounds(key.name()))))
    }
}

impl Recorder {
    fn describe(&self, name: &KeyName, text: SharedString) {
        lock(&self.0.help).insert(name.as_str().to_owned(), text);
    }

    /// All metrics in Prometheus's text format (exposition format 0.0.4).
    pub(super) fn render(&self) -> String {
        let mut text = Text { out: String::new(), help: lock(&self.0.help).clone(), name: None };
        // Counting, and finding series, goes on while the text is made.
        for (key, count) in lock(&self.0.counters).clone() {
            text.family(&key, "counter");
            text.line(&key, "", None, count.0.load(Ordering::Relaxed));
        }
        for (key, level) in lock(&self.0.gauges).clone() {
            text.family(&key, "gauge");
            text.line(&key, "", None, level.get());
        }
        for (key, buckets) in lock(&self.0.histograms).clone() {
            text.family(&key, "histogram");
            let mut count = 0;
            let bounds = buckets.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
            for (bound, samples) in bounds.zip(&buckets.counts) {
                count += samples.load(Ordering::Relaxed);
                text.line(&key, "_bucket", Some(&bound), count);
            }
            text.line(&key, "_sum", None, buckets.sum.get());
            text.line(&key, "_count", None, count);
        }
        text.out
    }
}

/// The existing series, or a new one.
fn series<T>(all: &Mutex<Series<T>>, key: &Key, new: impl FnOnce() -> T) -> Arc<T> {
    let mut all = lock(all);
    if let Some(known) = all.get(key) {
        return known.clone();
    }
    all.entry(Arc::new(key.clone())).or_insert_with(|| Arc::new(new())).clone()
}

struct Text {
    out: String,
    help: BTreeMap<String, SharedString>,
    // Of the family that is being written.
    name: Option<String>,
}

impl Text {
    /// Writes the head of a family before its first series.
    fn family(&mut self, key: &Key, kind: &str) {
        if self.name.as_deref() == Some(key.name()) {
            return;
        }
        let name = key.name().to_owned();
        if let Some(help) = self.help.get(&name) {
            let _ = writeln!(self.out, "# HELP {name} {}", Escaped { text: help, quote: false });
        }
        let _ = writeln!(self.out, "# TYPE {name} {kind}");
        self.name = Some(name);
    }

    fn line(&mut self, key: &Key, suffix: &str, bound: Option<&str>, value: impl fmt::Display) {
        let _ = write!(self.out, "{}{suffix}", key.name());
        let labels = key.labels().map(|label| (label.key(), label.value())).chain(bound.map(|bound| ("le", bound)));
        let mut before = '{';
        for (name, value) in labels {
            let _ = write!(self.out, "{before}{name}=\"{}\"", Escaped { text: value, quote: true });
            before = ',';
        }
        if before == ',' {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }
}

/// Backslashes and line ends escaped, and quotes where the text stands between some.
struct Escaped<'a> {
    text: &'a str,
    quote: bool,
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.text;
        while let Some(at) = rest.find(|c| matches!(c, '\\' | '\n') || (self.quote && c == '"')) {
            f.write_str(&rest[..at])?;
            f.write_str(match rest.as_bytes()[at] {
                b'\\' => "\\\\",
                b'\n' => "\\n",
                _ => "\\\"",
            })?;
            rest = &rest[at + 1..];
        }
        f.write_str(rest)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics::{counter, describe_counter, gauge, histogram};

    #[test]
    fn the_text_is_prometheus_own() {
        let recorder = Recorder::default();
        metrics::with_local_recorder(&recorder, || {
            describe_counter!("b_total", "two\nlines \\ \"quoted\"");
            counter!("b_total", "path" => "a\"b\\c\nd").increment(2);
            counter!("b_total", "path" => "-").increment(1);
            counter!("b_total", "path" => "-").increment(1);
            counter!("a_total").increment(1);
            gauge!("level").set(5);
            gauge!("level").increment(0.5);
            gauge!("level").decrement(3);
            for value in [0.0, 100.0, 100.5, 1e9] {
                histogram!("some_bytes", "k" => "v").record(value);
            }
        });
        let text = recorder.render();
        let (head, histogram) = text.split_once("# TYPE some_bytes histogram\n").unwrap();
        assert_eq!(
            head,
            "# TYPE a_total counter\na_total 1\n\
             # HELP b_total two\\nlines \\\\ \"quoted\"\n# TYPE b_total counter\n\
             b_total{path=\"-\"} 2\nb_total{path=\"a\\\"b\\\\c\\nd\"} 2\n\
             # TYPE level gauge\nlevel 2.5\n"
        );
        let lines: Vec<&str> = histogram.lines().collect();
        assert_eq!(lines[0], "some_bytes_bucket{k=\"v\",le=\"100\"} 2", "a boundary is part of its bucket");
        assert_eq!(lines[1], "some_bytes_bucket{k=\"v\",le=\"500\"} 3");
        assert_eq!(
            lines[lines.len() - 3..],
            ["some_bytes_bucket{k=\"v\",le=\"+Inf\"} 4", "some_bytes_sum{k=\"v\"} 1000000200.5", "some_bytes_count{k=\"v\"} 4"]
        );
    }

    #[test]
    fn nothing_is_lost_when_threads_count_together() {
        let recorder = Recorder::default();
        let (counter, histogram) = metrics::with_local_recorder(&recorder, || (counter!("n"), histogram!("h")));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        counter.increment(1);
                        histogram.record(1.5);
                    }
                });
            }
        });
        let text = recorder.render();
        for line in ["n 4000", "h_count 4000", "h_sum 6000"] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
