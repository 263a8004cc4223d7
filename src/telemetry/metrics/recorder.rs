//! What is behind the handles: numbers that are counted in place, and their text for Prometheus.
//!
//! Histograms have fixed boundaries, so a sample costs two additions wherever it comes from, and a
//! series has the same size whether it is scraped or not.

use super::{
    system::Sampled,
    text::{MetricsFormat, Text},
};
use metrics::{Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};
use std::{
    collections::BTreeMap,
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

    /// All metrics as text, and families that are not counted but looked up.
    pub(super) fn render(&self, format: MetricsFormat, sampled: Vec<Sampled>) -> String {
        let mut text = Text::new(format, lock(&self.0.help).clone());
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
        for Sampled { kind, series } in sampled {
            for (key, value) in series {
                text.family(&key, kind);
                text.line(&key, "", None, value);
            }
        }
        text.finish()
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
        let text = recorder.render(MetricsFormat::Prometheus, Vec::new());
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
    fn open_metrics_names_counters_without_total_and_says_that_it_is_whole() {
        let recorder = Recorder::default();
        metrics::with_local_recorder(&recorder, || {
            describe_counter!("b_total", "some \"text\"");
            counter!("b_total", "path" => "-").increment(3);
            gauge!("level").set(2);
        });
        let busy = ("busy_seconds_total", 0.25);
        let sampled = Sampled { kind: "counter", series: vec![(Key::from_static_name(busy.0), busy.1)] };
        assert_eq!(
            recorder.render(MetricsFormat::OpenMetrics, vec![sampled]),
            "# HELP b some \\\"text\\\"\n# TYPE b counter\nb_total{path=\"-\"} 3\n# TYPE level gauge\nlevel 2\n\
             # TYPE busy_seconds counter\nbusy_seconds_total 0.25\n# EOF\n"
        );
        for (accept, format) in [
            ("", MetricsFormat::Prometheus),
            ("text/plain;version=0.0.4;q=0.5, */*;q=0.1", MetricsFormat::Prometheus),
            ("application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.5", MetricsFormat::OpenMetrics),
            ("text/plain, Application/OpenMetrics-Text", MetricsFormat::OpenMetrics),
        ] {
            assert_eq!(MetricsFormat::accepted(accept), format, "{accept}");
        }
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
        let text = recorder.render(MetricsFormat::Prometheus, Vec::new());
        for line in ["n 4000", "h_count 4000", "h_sum 6000"] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
