//! What peers say of themselves becomes labels of metrics, and those are never forgotten: so only so
//! much of it is believed.

use crate::hbone::Baggage;
use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

/// Workloads of other networks, and the like, that one workload may have to do with.
const MOST: usize = 1024;
/// Names in Kubernetes are no longer, in bytes.
const LONGEST: usize = 253;

/// All that has been believed so far.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashSet<Baggage>>);

impl Told {
    /// What of it may be reported: all, or nothing once too much has been told.
    pub(super) fn believe(&self, baggage: Baggage) -> Baggage {
        let Baggage { cluster, namespace, workload, workload_type, service_name, revision, region, zone } = &baggage;
        let all = [cluster, namespace, workload, workload_type, service_name, revision, region, zone];
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(&baggage) {
            return baggage;
        }
        if known.len() >= MOST || all.into_iter().any(|text| text.len() > LONGEST) {
            return Baggage::default();
        }
        known.insert(baggage.clone());
        baggage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_are_believed_and_those_for_good() {
        let (told, named) = (Told::default(), |name: String| Baggage { workload: name.into(), ..Baggage::default() });
        let numbered = |number: usize| named(format!("w{number}"));
        for number in 0..MOST {
            assert_eq!(told.believe(numbered(number)), numbered(number));
        }
        assert_eq!(told.believe(numbered(MOST)), Baggage::default());
        assert_eq!(told.believe(numbered(7)), numbered(7));
    }

    #[test]
    fn what_is_no_name_is_not_believed() {
        let told = Told::default();
        for (length, is_believed) in [(LONGEST, true), (LONGEST + 1, false)] {
            let baggage = Baggage { zone: "z".repeat(length).into(), ..Baggage::default() };
            assert_eq!(told.believe(baggage.clone()) == baggage, is_believed, "{length}");
        }
    }
}
