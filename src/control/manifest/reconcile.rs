//! Decides what serves: from all files as they are now, and from what was good before.
//!
//! Everything is kept from round to round, and only what changed is judged anew, with what depends on
//! it. Ids whose state is not plain (doubled, withheld, held on to, without a version) take part in
//! every round: there, time makes a difference.

use super::{
    Located, Owns,
    decode::{Decoded, Issue, Object, Version},
    file::ManifestFile,
    ledger::{Files, Good, Ledger, Record, Slot},
    policy,
    publish::{Published, report_losers},
    report::{Home, Report},
    source::Batch,
    validate::{ForeignGateways, Index, Target, are_open, targets},
    yaml::Position,
};
use crate::model::{Kind, PolicyTarget, Resource, ResourceId, ResourceKey, ResourceName, Severity};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

/// A file that says something else than before.
#[derive(Debug)]
pub(super) struct Replaced {
    pub(super) path: PathBuf,
    /// What it was; none for a new one.
    pub(super) before: Option<ManifestFile>,
}

/// Remembers what was good and what was handed over.
#[derive(Debug, Default)]
pub(super) struct Reconciler {
    lenient: bool,
    ledger: Ledger,
    /// What all that is good provides.
    index: Index,
    published: Published,
    /// Whose references lead to a target.
    referrers: HashMap<Target, Vec<Slot>>,
    /// Take part in the next round, whatever changes.
    restless: HashSet<Slot>,
    /// Have something to be told in every round.
    noisy: HashSet<Slot>,
    /// Count only if some Gateway is ours.
    conditional: HashSet<Slot>,
    reported: BTreeSet<Located>,
}

/// What may serve under an id.
#[derive(Debug, Clone)]
struct Candidate {
    version: Arc<Version>,
    file: Arc<Path>,
    /// The files say so now; otherwise it is what was good before.
    is_current: bool,
    /// Not what served until now.
    is_changed: bool,
}

/// One round: who takes part, and with what.
struct Round<'f> {
    files: &'f Files,
    unreadable: &'f BTreeMap<PathBuf, String>,
    active: HashMap<Slot, Option<Candidate>>,
    stand_ins: Vec<Resource>,
    /// Documents that nobody can read and that look like policies.
    lost_policies: Vec<(Home<'f>, Position, &'f str)>,
    report: Report,
}

impl Reconciler {
    pub(super) fn new(lenient: bool, owns: Owns) -> Self {
        Self { lenient, index: Index::new(owns), ..Self::default() }
    }

    /// Judges what changed and tells what is to be done.
    pub(super) fn reconcile(&mut self, files: &Files, unreadable: &BTreeMap<PathBuf, String>, replaced: Vec<Replaced>) -> Batch {
        let (active, stand_ins, lost_policies, report) = Default::default();
        let mut round = Round { files, unreadable, active, stand_ins, lost_policies, report };
        for (path, message) in unreadable {
            round.report.error(Home::file(path), Position::default(), String::new(), message.clone());
        }
        let foreign = round.look_around();
        self.assemble(&mut round, foreign, replaced);
        self.candidates(&mut round);
        self.hold_on(&mut round);
        let before: HashMap<Slot, Arc<Version>> = self.enter(&round);
        self.withhold(&mut round);
        self.accept(&mut round, &before);
        self.batch(round)
    }

    /// Everybody who takes part.
    fn assemble(&mut self, round: &mut Round<'_>, foreign: ForeignGateways, replaced: Vec<Replaced>) {
        let mut touched: Vec<Slot> = self.restless.drain().collect();
        for Replaced { path, before } in replaced {
            let now = round.files.get(&path).map(|file| &*file.pieces).unwrap_or_default();
            self.ledger.replace(&path, before.as_ref().map(|file| &*file.pieces).unwrap_or_default(), now, &mut touched);
        }
        let waypoint = |name: &ResourceName| ResourceKey::Waypoint(name.clone());
        if *self.index.foreign_gateways() != foreign {
            self.published.touch_keys(self.index.foreign_gateways().keys().chain(foreign.keys()).map(waypoint));
        }
        if self.index.set_foreign_gateways(foreign) {
            touched.extend(&self.conditional);
        }
        round.active.extend(touched.into_iter().map(|slot| (slot, None)));
    }

    /// The definition of an id that counts, if any does.
    fn definition<'f>(&self, files: &'f Files, record: &Record) -> Option<(Home<'f>, &'f Decoded)> {
        let first = record.definitions(files).next()?;
        let is_foreign = |gateway: &ResourceName| self.index.foreign_gateways().contains_key(gateway);
        // A route of somebody else's Gateway, with features that are none of our business.
        let gateways = &first.1.gateways_only;
        (gateways.is_empty() || !gateways.iter().all(is_foreign)).then_some(first)
    }

    /// What the files say, else what was good before. Policies that have neither get a stand-in that
    /// denies.
    fn candidates(&mut self, round: &mut Round<'_>) {
        for (slot, candidate) in &mut round.active {
            let Some(record) = self.ledger.get(*slot) else { continue };
            let Some((_, decoded)) = self.definition(round.files, record) else { continue };
            let Some(file) = record.file().cloned() else { continue };
            let good = record.good.as_ref();
            let is_trusted = !record.is_doubled() || (good.is_none() && record.id.kind != Kind::AuthorizationPolicy);
            *candidate = match (decoded.version.as_ref().filter(|_| is_trusted), good) {
                (Some(version), good) => {
                    let same = good.map(|g| &g.version).filter(|good| Arc::ptr_eq(good, version) || **good == *version);
                    Some(Candidate { version: same.unwrap_or(version).clone(), file, is_current: true, is_changed: same.is_none() })
                }
                (None, Some(good)) => Some(Candidate { version: good.version.clone(), file, is_current: false, is_changed: false }),
                (None, None) => {
                    round.stand_ins.extend(decoded.fallback.clone().or_else(|| ambiguous(decoded)));
                    None
                }
            };
        }
    }

    /// Keeps what was good and is not seen any more, if it may be hidden in an unreadable document.
    /// Policies that are unreadable and that none of the kept ones can be get stand-ins.
    fn hold_on(&mut self, round: &mut Round<'_>) {
        let mut kept_policies: Vec<(ResourceId, Arc<Path>)> = Vec::new();
        for (slot, candidate) in &mut round.active {
            let Some(record) = self.ledger.get(*slot) else { continue };
            let Some(good) = record.good.as_ref().filter(|_| self.definition(round.files, record).is_none()) else { continue };
            let Some(manifest) = round.files.get(&*good.file) else { continue };
            if !manifest.is_uncertain() && !round.unreadable.keys().any(|p| good.file.starts_with(p)) {
                continue;
            }
            if record.id.kind == Kind::AuthorizationPolicy {
                kept_policies.push((record.id.clone(), good.file.clone()));
            }
            let (version, file) = (good.version.clone(), good.file.clone());
            *candidate = Some(Candidate { version, file, is_current: false, is_changed: false });
        }
        kept_policies.sort_unstable();
        round.stand_ins.extend(unclaimed(&round.lost_policies, kept_policies));
    }

    /// Lets all candidates provide what they do. Returns what those who take part provided before.
    fn enter(&mut self, round: &Round<'_>) -> HashMap<Slot, Arc<Version>> {
        let good = |slot: &Slot| Some((*slot, self.ledger.get(*slot)?.good.as_ref()?.version.clone()));
        let before: HashMap<Slot, Arc<Version>> = round.active.keys().filter_map(good).collect();
        let stays = |slot: &Slot| match (before.get(slot), &round.active[slot]) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, &now.version),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let moving: Vec<Slot> = round.active.keys().copied().filter(|slot| !stays(slot)).collect();
        moving.iter().filter_map(|slot| before.get(slot)).for_each(|version| self.index.remove(version));
        for candidate in moving.iter().filter_map(|slot| round.active[slot].as_ref()) {
            self.index.insert(&candidate.version);
        }
        before
    }

    /// Takes back changed candidates whose references do not hold, until nothing moves: taking one
    /// back can break another.
    fn withhold(&mut self, round: &mut Round<'_>) {
        loop {
            let mut withheld = Vec::new();
            for (slot, candidate) in &round.active {
                let (Some(record), Some(candidate)) = (self.ledger.get(*slot), candidate.as_ref().filter(|c| c.is_changed)) else {
                    continue;
                };
                let has_good = record.good.as_ref().is_some_and(|g| g.is_whole);
                let broken = problems(&self.index, &record.id, &candidate.version);
                if !broken.is_empty() && (has_good || !self.lenient) {
                    withheld.push((*slot, broken));
                }
            }
            if withheld.is_empty() {
                return;
            }
            for (slot, broken) in withheld {
                let (Some(record), Some(candidate)) = (self.ledger.get(slot), round.active.get_mut(&slot)) else { continue };
                if let Some((home, _)) = self.definition(round.files, record) {
                    broken.into_iter().for_each(|issue| round.report.add(home, record.id.to_string(), issue, true));
                }
                let Some(taken_back) = candidate.take() else { continue };
                self.index.remove(&taken_back.version);
                if let Some(good) = &record.good {
                    self.index.insert(&good.version);
                    let (version, file) = (good.version.clone(), taken_back.file);
                    *candidate = Some(Candidate { version, file, is_current: false, is_changed: false });
                }
            }
        }
    }

    /// What the candidates have become is good, and is claimed. Everything that depends on what has
    /// changed is judged anew.
    fn accept(&mut self, round: &mut Round<'_>, before: &HashMap<Slot, Arc<Version>>) {
        for (slot, candidate) in &round.active {
            let (old, new) = (before.get(slot), candidate.as_ref().map(|c| &c.version));
            if old.map(Arc::as_ptr) != new.map(Arc::as_ptr) {
                if let Some(old) = old {
                    self.published.renounce(*slot, &old.resources);
                    self.unregister(*slot, old);
                }
                if let Some(new) = new {
                    self.published.claim(*slot, &new.resources);
                    self.register(*slot, new);
                }
            }
            let Some(record) = self.ledger.get_mut(*slot) else { continue };
            let was_whole = candidate.as_ref().is_some_and(|c| !c.is_changed) && record.good.as_ref().is_some_and(|g| g.is_whole);
            record.good = candidate.as_ref().map(|c| Good { version: c.version.clone(), file: c.file.clone(), is_whole: was_whole });
        }
        let mut affected: HashSet<Slot> = round.active.keys().copied().collect();
        let touched = self.index.take_touched();
        if affected.len() < self.ledger.len() {
            affected.extend(touched.iter().filter_map(|target| self.referrers.get(target)).flatten());
        }
        for slot in affected {
            self.settle(slot, round);
        }
    }

    /// Judges what serves under an id, and whether there is more to be said about it in later rounds.
    fn settle(&mut self, slot: Slot, round: &Round<'_>) {
        let Some(record) = self.ledger.get(slot) else { return };
        let definition = self.definition(round.files, record);
        let (is_whole, is_open) = record.good.as_ref().map_or((true, false), |good| {
            (problems(&self.index, &record.id, &good.version).is_empty(), are_open(&good.version.references))
        });
        let decoded = definition.map(|(_, decoded)| decoded);
        let is_current = match (decoded.and_then(|d| d.version.as_ref()), &record.good) {
            (Some(version), Some(good)) => Arc::ptr_eq(version, &good.version) || *version == good.version,
            (Some(_) | None, _) => false,
        };
        // What is not ours is at rest as long as nothing of it serves.
        let is_at_rest = decoded.map_or(record.good.is_none(), |_| is_current);
        let is_noisy = record.is_doubled() || !is_whole || decoded.is_some_and(|d| !d.issues.is_empty());
        let is_conditional = record.definitions(round.files).next().is_some_and(|(_, d)| !d.gateways_only.is_empty());
        keep(&mut self.noisy, slot, is_noisy);
        keep(&mut self.restless, slot, record.is_doubled() || !is_at_rest);
        keep(&mut self.conditional, slot, is_conditional);
        if let Some(good) = self.ledger.get_mut(slot).and_then(|record| record.good.as_mut()) {
            good.is_whole |= is_whole;
            if is_open {
                self.published.touch(&good.version.resources);
            }
        }
        if self.ledger.release(slot) {
            for slots in [&mut self.noisy, &mut self.restless, &mut self.conditional] {
                slots.remove(&slot);
            }
        }
    }

    fn register(&mut self, slot: Slot, version: &Version) {
        for target in targets(&version.references) {
            self.referrers.entry(target).or_default().push(slot);
        }
    }

    fn unregister(&mut self, slot: Slot, version: &Version) {
        for target in targets(&version.references) {
            let Some(slots) = self.referrers.get_mut(&target) else { continue };
            if let Some(at) = slots.iter().position(|other| *other == slot) {
                slots.swap_remove(at);
            }
            if slots.is_empty() {
                self.referrers.remove(&target);
            }
        }
    }

    fn batch(&mut self, mut round: Round<'_>) -> Batch {
        self.tell(&mut round);
        self.published.stand_in(std::mem::take(&mut round.stand_ins));
        let changes = self.published.changes(&self.ledger, &self.index);
        let (fresh, rejected) = round.report.news(&self.reported);
        let findings = round.report.findings.iter().cloned().collect();
        self.reported = round.report.findings;
        Batch { changes, findings, fresh, rejected }
    }

    /// Says what there is to be said in every round.
    fn tell(&self, round: &mut Round<'_>) {
        for slot in &self.noisy {
            let Some(record) = self.ledger.get(*slot) else { continue };
            self.tell_doubled(record, round);
            let Some((home, decoded)) = self.definition(round.files, record) else { continue };
            for issue in &decoded.issues {
                round.report.add(home, record.id.to_string(), issue.clone(), true);
            }
            let Some(good) = &record.good else { continue };
            let (is_current, is_changed) = match round.active.get(slot) {
                Some(candidate) => candidate.as_ref().map_or((false, false), |c| (c.is_current, c.is_changed)),
                None => (true, false),
            };
            if is_current {
                let problems = problems(&self.index, &record.id, &good.version);
                problems.into_iter().for_each(|issue| round.report.add(home, record.id.to_string(), issue, is_changed));
            }
        }
        let losers = self.published.losers(&self.ledger);
        let files = round.files;
        let say = |slot: Slot, message: String, report: &mut Report| {
            let Some(record) = self.ledger.get(slot) else { return };
            match (self.definition(files, record), &record.good) {
                (Some((home, decoded)), _) => report.error(home, decoded.at, record.id.to_string(), message),
                (None, Some(good)) => report.error(Home::file(&good.file), Position::default(), record.id.to_string(), message),
                (None, None) => {}
            }
        };
        report_losers(&losers, say, &mut round.report);
    }

    fn tell_doubled(&self, record: &Record, round: &mut Round<'_>) {
        let mut definitions = record.definitions(round.files);
        let Some((first, decoded)) = definitions.next() else { return };
        let at = first.place(decoded.at);
        for (home, decoded) in definitions {
            let message = format!("already defined at {}:{}:{}", first.file.display(), at.line, at.column);
            round.report.error(home, decoded.at, decoded.id.to_string(), message);
        }
    }
}

impl<'f> Round<'f> {
    /// Looks at everything that is none of our objects; returns the Gateways of other classes.
    fn look_around(&mut self) -> ForeignGateways {
        let (mut skipped, mut foreign) = (BTreeSet::new(), ForeignGateways::new());
        let files: &'f Files = self.files;
        for (path, file) in files {
            if let Some(broken) = &file.broken {
                self.report.error(Home::file(path), broken.at, String::new(), broken.message.clone());
            }
            for piece in file.others() {
                let home = Home { file: path, piece: Some(piece) };
                for broken in &piece.body.broken {
                    self.report.error(home, broken.at, String::new(), broken.message.clone());
                    if broken.text.contains("AuthorizationPolicy") {
                        self.lost_policies.push((home, broken.at, &broken.text));
                    }
                }
                for object in &piece.body.objects {
                    self.look_at(home, object, &mut skipped, &mut foreign);
                }
            }
        }
        foreign
    }

    fn look_at(&mut self, home: Home<'f>, object: &'f Object, skipped: &mut BTreeSet<&'f str>, foreign: &mut ForeignGateways) {
        match object {
            Object::Skipped { kind, at, gateway, reason } => {
                foreign.extend(gateway.iter().map(|g| (g.name.clone(), (**g).clone())));
                if skipped.insert(kind) {
                    let (severity, field, message) = (Severity::Warning, String::new(), reason.clone());
                    self.report.add(home, String::new(), Issue { severity, at: *at, field, message }, false);
                }
            }
            Object::Nameless { at, field, message, mentions_policy } => {
                let (field, message) = (field.clone(), message.clone());
                self.report.add(home, String::new(), Issue { severity: Severity::Error, at: *at, field, message }, true);
                if *mentions_policy {
                    self.lost_policies.push((home, *at, ""));
                }
            }
            Object::Ours(_) => {}
        }
    }
}

fn keep(slots: &mut HashSet<Slot>, slot: Slot, is_in: bool) {
    if is_in {
        slots.insert(slot);
    } else {
        slots.remove(&slot);
    }
}

/// A policy that is defined twice and was never good under one definition.
fn ambiguous(decoded: &Decoded) -> Option<Resource> {
    if decoded.id.kind != Kind::AuthorizationPolicy {
        return None;
    }
    let resource = decoded.version.as_ref()?.resources.first()?;
    let Resource::Policy(policy) = resource else { return None };
    Some(Resource::from(policy::invalid(policy.name.clone(), policy.target.clone(), "defined twice")))
}

/// Unreadable policies, less those that can be taken for a newer version of a kept one.
fn unclaimed(lost: &[(Home<'_>, Position, &str)], mut kept: Vec<(ResourceId, Arc<Path>)>) -> Vec<Resource> {
    let mut claim = |file: &Path, text: Option<&str>| {
        let same = |(id, path): &(ResourceId, Arc<Path>)| **path == *file && text.is_none_or(|t| t.contains(&*id.name.name));
        kept.iter().position(same).map(|i| kept.swap_remove(i)).is_some()
    };
    let mut open: Vec<_> = lost.iter().filter(|(home, _, text)| !claim(home.file, Some(text))).collect();
    open.retain(|(home, _, _)| !claim(home.file, None));
    let deny = |(home, at, _): &&(Home<'_>, Position, &str)| {
        let name = ResourceName::new("", &format!("{}:{}", home.file.display(), home.place(*at).line));
        Resource::from(policy::invalid(name, PolicyTarget::Unknown, "unreadable"))
    };
    open.iter().map(deny).collect()
}

fn problems(index: &Index, id: &ResourceId, version: &Version) -> Vec<Issue> {
    // A policy for what does not exist is harmless; the linter tells.
    if id.kind == Kind::AuthorizationPolicy {
        return Vec::new();
    }
    let mut found: Vec<Issue> = Vec::new();
    for reference in &version.references {
        let Some(message) = index.problem(&reference.referent) else { continue };
        // A missing service is missing with its port, too: say it once.
        let beside = |last: &Issue| last.field.rsplit_once('.').map(|f| f.0) == reference.field.rsplit_once('.').map(|f| f.0);
        if found.last().is_none_or(|last| last.message != message || !beside(last)) {
            found.push(Issue { severity: Severity::Error, at: reference.at, field: reference.field.clone(), message });
        }
    }
    found
}
