//! Profiles in the format of `go tool pprof` (profile.proto), from what samples and whatever is
//! sampled.

mod cpu;
pub mod heap;
mod proto;

pub use cpu::cpu;

use prost::Message as _;
use proto::{Function, Label, Line, Location, Profile, Sample, ValueType};
use std::collections::HashMap;

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The profiler cannot be started; most likely one runs already.
    #[error("the CPU profiler cannot be started: {0}")]
    Start(String),
    /// What was sampled cannot be read.
    #[error("the profile cannot be made: {0}")]
    Report(String),
    /// Heap profiling is off.
    #[error("heap profiling is not active")]
    Inactive,
    /// Another allocator is in use.
    #[error("the allocator of this process does not sample")]
    NotSampling,
}

/// A place in the program: one address, and the functions it lies in, the innermost first.
#[derive(Debug, Default)]
struct Frame {
    address: u64,
    symbols: Vec<Symbol>,
}

#[derive(Debug)]
struct Symbol {
    name: String,
    file: String,
    line: i64,
}

/// A profile while it grows. Texts, functions and places are written once each.
#[derive(Debug)]
struct Builder {
    profile: Profile,
    texts: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
    locations: HashMap<u64, u64>,
}

impl Builder {
    /// With values of these types and units, the last of which is also the period's.
    fn new(types: &[(&str, &str)], period: i64) -> Self {
        let mut this = Self { profile: Profile::default(), texts: HashMap::new(), functions: HashMap::new(), locations: HashMap::new() };
        // The first text is the empty one.
        this.text("");
        let types: Vec<ValueType> = types.iter().map(|(kind, unit)| ValueType { r#type: this.text(kind), unit: this.text(unit) }).collect();
        this.profile.period_type = types.last().cloned();
        this.profile.sample_type = types;
        this.profile.period = period;
        this
    }

    fn text(&mut self, text: &str) -> i64 {
        if let Some(known) = self.texts.get(text) {
            return *known;
        }
        let index = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.to_owned());
        self.texts.insert(text.to_owned(), index);
        index
    }

    /// Adds a sample; `frames` from the innermost.
    fn sample(&mut self, frames: impl IntoIterator<Item = Frame>, values: Vec<i64>, labels: &[(&str, &str)]) {
        let location_id = frames.into_iter().map(|frame| self.location(frame)).collect();
        let label = labels.iter().map(|(key, value)| Label { key: self.text(key), str: self.text(value) }).collect();
        self.profile.sample.push(Sample { location_id, value: values, label });
    }

    fn location(&mut self, frame: Frame) -> u64 {
        if let Some(known) = self.locations.get(&frame.address) {
            return *known;
        }
        let line = frame.symbols.iter().map(|symbol| Line { function_id: self.function(symbol), line: symbol.line }).collect();
        let id = self.profile.location.len() as u64 + 1;
        self.profile.location.push(Location { id, address: frame.address, line });
        self.locations.insert(frame.address, id);
        id
    }

    fn function(&mut self, symbol: &Symbol) -> u64 {
        let (name, filename) = (self.text(&symbol.name), self.text(&symbol.file));
        let next = self.profile.function.len() as u64 + 1;
        let id = *self.functions.entry((name, filename)).or_insert(next);
        if id == next {
            self.profile.function.push(Function { id, name, system_name: name, filename });
        }
        id
    }

    fn finish(mut self, duration_nanos: i64) -> Vec<u8> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.profile.time_nanos = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        self.profile.duration_nanos = duration_nanos;
        self.profile.encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_places_and_functions_are_written_once() {
        let frame = |address, name: &str| Frame { address, symbols: vec![Symbol { name: name.into(), file: "a.rs".into(), line: 7 }] };
        let mut builder = Builder::new(&[("samples", "count"), ("cpu", "nanoseconds")], 10);
        builder.sample([frame(1, "f"), frame(2, "g")], vec![3, 30], &[("thread", "worker")]);
        builder.sample([frame(3, "f"), frame(2, "g")], vec![1, 10], &[("thread", "worker")]);
        let read = Profile::decode(&*builder.finish(5)).unwrap();
        let text = |index: i64| read.string_table[usize::try_from(index).unwrap()].as_str();
        assert_eq!(read.string_table[0], "");
        assert_eq!(
            read.sample_type.iter().map(|t| (text(t.r#type), text(t.unit))).collect::<Vec<_>>(),
            [("samples", "count"), ("cpu", "nanoseconds")]
        );
        assert_eq!((text(read.period_type.unwrap().r#type), read.period, read.duration_nanos), ("cpu", 10, 5));
        assert_eq!(read.function.iter().map(|f| text(f.name)).collect::<Vec<_>>(), ["f", "g"]);
        assert_eq!(read.location.iter().map(|l| (l.address, l.line[0].function_id)).collect::<Vec<_>>(), [(1, 1), (2, 2), (3, 1)]);
        assert_eq!(read.sample.iter().map(|s| s.location_id.clone()).collect::<Vec<_>>(), [[1, 2], [3, 2]]);
        assert_eq!(read.sample[1].value, [1, 10]);
        assert_eq!(text(read.sample[0].label[0].str), "worker");
    }
}
