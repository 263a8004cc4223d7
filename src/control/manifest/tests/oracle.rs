//! Decides what serves as [`reconcile`](super::super::reconcile) does, but from scratch in every round: what the
//! one that remembers must agree with.

use super::super::{
    Located,
    decode::{Decoded, Issue, Object, Reference, Version},
    file::{ManifestFile, Piece},
    policy,
    source::Batch,
    yaml::Position,
};
use crate::{
    model::{Kind, PolicyTarget, Resource, ResourceId, ResourceKey, ResourceName, Severity, Waypoint},
    state::Change,
};
use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    path::{Path, PathBuf},
    sync::Arc,
};

mod index;

use index::Index;

type Files = BTreeMap<PathBuf, ManifestFile>;

/// Remembers what was good and what was handed over.
#[derive(Debug)]
pub(super) struct Reconciler {
    lenient: bool,
    good: BTreeMap<ResourceId, Good>,
    published: BTreeMap<ResourceKey, Resource>,
    reported: BTreeSet<Located>,
}

/// The last version of a resource that served.
#[derive(Debug, Clone)]
struct Good {
    version: Arc<Version>,
    file: PathBuf,
    /// Its references held when it was accepted.
    is_whole: bool,
}

/// Where something was read, or would be.
#[derive(Debug, Clone, Copy)]
struct Home<'f> {
    file: &'f Path,
    piece: Option<&'f Piece>,
}

impl Home<'_> {
    fn place(&self, at: Position) -> Position {
        self.piece.map_or(at, |piece| piece.place(at))
    }
}

/// What may serve under an id.
#[derive(Debug, Clone)]
struct Candidate<'f> {
    version: Arc<Version>,
    home: Home<'f>,
    /// The files say so now; otherwise it is what was good before.
    is_current: bool,
    /// Not what served until now.
    is_changed: bool,
}

/// The findings of one round.
#[derive(Debug, Default)]
struct Report {
    findings: BTreeSet<Located>,
    /// Files and lines or resources that were rejected.
    rejected: BTreeSet<Located>,
}

impl Report {
    fn add(&mut self, home: Home<'_>, resource: String, issue: Issue, rejects: bool) {
        let Issue { severity, at, field, message } = issue;
        let located = Located::new(home.file.display().to_string(), home.place(at), severity, resource, field, message);
        if rejects && severity == Severity::Error {
            self.rejected.insert(located.clone());
        }
        self.findings.insert(located);
    }

    fn error(&mut self, home: Home<'_>, at: Position, resource: String, message: String) {
        self.add(home, resource, Issue { severity: Severity::Error, at, field: String::new(), message }, true);
    }
}

/// All objects of all files, sorted out.
#[derive(Default)]
struct Objects<'f> {
    ours: BTreeMap<&'f ResourceId, (Home<'f>, &'f Decoded)>,
    doubled: BTreeSet<&'f ResourceId>,
    foreign_gateways: BTreeMap<ResourceName, &'f Waypoint>,
    /// Documents that nobody can read and that look like policies.
    lost_policies: Vec<(Home<'f>, Position, &'f str)>,
}

impl<'f> Objects<'f> {
    fn sort_in(&mut self, home: Home<'f>, object: &'f Object, skipped: &mut BTreeSet<&'f str>, report: &mut Report) {
        match object {
            Object::Skipped { kind, at, gateway, reason } => {
                self.foreign_gateways.extend(gateway.iter().map(|g| (g.name.clone(), &**g)));
                if skipped.insert(kind) {
                    let (severity, field, message) = (Severity::Warning, String::new(), reason.clone());
                    report.add(home, String::new(), Issue { severity, at: *at, field, message }, false);
                }
            }
            Object::Nameless { at, field, message, mentions_policy } => {
                let (field, message) = (field.clone(), message.clone());
                report.add(home, String::new(), Issue { severity: Severity::Error, at: *at, field, message }, true);
                if *mentions_policy {
                    self.lost_policies.push((home, *at, ""));
                }
            }
            Object::Ours(decoded) => match self.ours.entry(&decoded.id) {
                btree_map::Entry::Vacant(vacant) => drop(vacant.insert((home, decoded))),
                btree_map::Entry::Occupied(first) => {
                    let (first, decoded_first) = first.get();
                    let at = first.place(decoded_first.at);
                    let message = format!("already defined at {}:{}:{}", first.file.display(), at.line, at.column);
                    report.error(home, decoded.at, decoded.id.to_string(), message);
                    self.doubled.insert(&decoded.id);
                }
            },
        }
    }
}

impl Reconciler {
    pub(super) fn new(lenient: bool) -> Self {
        Self { lenient, good: BTreeMap::new(), published: BTreeMap::new(), reported: BTreeSet::new() }
    }

    /// Judges everything anew and tells what changed.
    pub(super) fn reconcile(&mut self, files: &Files, unreadable: &BTreeMap<PathBuf, String>) -> Batch {
        let mut report = Report::default();
        for (path, message) in unreadable {
            report.error(Home { file: path, piece: None }, Position::default(), String::new(), message.clone());
        }
        let objects = sort_out(files, &mut report);
        let mut stand_ins = Vec::new();
        let mut candidates = self.candidates(&objects, &mut stand_ins, &mut report);
        let lost = self.retain_uncertain(files, unreadable, &objects, &mut candidates);
        self.withhold(&objects, &mut candidates, &mut report);
        let desired = resolve(&objects, &candidates, stand_ins.into_iter().chain(lost), &mut report);
        self.good = self.accepted(&objects, candidates);
        self.batch(desired, report)
    }

    /// One candidate per id: what the files say, else what was good before. Policies that have
    /// neither get a stand-in that denies.
    fn candidates<'f>(
        &self,
        objects: &Objects<'f>,
        stand_ins: &mut Vec<Resource>,
        report: &mut Report,
    ) -> BTreeMap<ResourceId, Candidate<'f>> {
        let mut candidates = BTreeMap::new();
        for (id, (home, decoded)) in &objects.ours {
            for issue in &decoded.issues {
                report.add(*home, id.to_string(), issue.clone(), true);
            }
            let good = self.good.get(*id);
            let is_doubled = objects.doubled.contains(*id);
            let current = decoded.version.as_ref().filter(|_| !is_doubled || (good.is_none() && id.kind != Kind::AuthorizationPolicy));
            let candidate = match (current, good) {
                (Some(version), good) => {
                    let same = good.filter(|g| Arc::ptr_eq(&g.version, version) || g.version == *version);
                    let version = same.map_or(version, |g| &g.version).clone();
                    Candidate { version, home: *home, is_current: true, is_changed: same.is_none() }
                }
                (None, Some(good)) => Candidate { version: good.version.clone(), home: *home, is_current: false, is_changed: false },
                (None, None) => {
                    stand_ins.extend(decoded.fallback.clone().or_else(|| ambiguous(decoded)));
                    continue;
                }
            };
            candidates.insert((*id).clone(), candidate);
        }
        candidates
    }

    /// Keeps what was good and is not seen any more, if it may be hidden in an unreadable document.
    /// Returns stand-ins for unreadable policies that none of the kept ones can be.
    fn retain_uncertain<'f>(
        &self,
        files: &'f Files,
        unreadable: &BTreeMap<PathBuf, String>,
        objects: &Objects<'f>,
        candidates: &mut BTreeMap<ResourceId, Candidate<'f>>,
    ) -> Vec<Resource> {
        let mut kept_policies: Vec<(&ResourceId, &Path)> = Vec::new();
        for (id, good) in &self.good {
            if objects.ours.contains_key(id) {
                continue;
            }
            let Some((file, manifest)) = files.get_key_value(&good.file) else { continue };
            if !manifest.is_uncertain() && !unreadable.keys().any(|p| good.file.starts_with(p)) {
                continue;
            }
            if id.kind == Kind::AuthorizationPolicy {
                kept_policies.push((id, file));
            }
            let version = good.version.clone();
            candidates.insert(id.clone(), Candidate { version, home: Home { file, piece: None }, is_current: false, is_changed: false });
        }
        unclaimed(&objects.lost_policies, kept_policies)
    }

    /// Takes back changed candidates whose references do not hold, until nothing moves: taking one
    /// back can break another.
    fn withhold(&self, objects: &Objects<'_>, candidates: &mut BTreeMap<ResourceId, Candidate<'_>>, report: &mut Report) {
        loop {
            let index = Index::new(candidates.values().flat_map(|c| &c.version.resources), &objects.foreign_gateways);
            let mut withheld = Vec::new();
            for (id, candidate) in candidates.iter().filter(|(_, c)| c.is_changed) {
                let has_good = self.good.get(id).is_some_and(|g| g.is_whole);
                let broken = problems(&index, id, &candidate.version.references);
                if !broken.is_empty() && (has_good || !self.lenient) {
                    withheld.push((id.clone(), candidate.home, broken));
                }
            }
            if withheld.is_empty() {
                return;
            }
            for (id, home, broken) in withheld {
                broken.into_iter().for_each(|issue| report.add(home, id.to_string(), issue, true));
                match self.good.get(&id) {
                    Some(good) => {
                        let version = good.version.clone();
                        candidates.insert(id, Candidate { version, home, is_current: false, is_changed: false });
                    }
                    None => drop(candidates.remove(&id)),
                }
            }
        }
    }

    fn accepted(&self, objects: &Objects<'_>, candidates: BTreeMap<ResourceId, Candidate<'_>>) -> BTreeMap<ResourceId, Good> {
        let index = Index::new(candidates.values().flat_map(|c| &c.version.resources), &objects.foreign_gateways);
        let accept = |(id, candidate): (&ResourceId, &Candidate<'_>)| {
            let before = self.good.get(id).filter(|_| !candidate.is_changed);
            let is_whole = before.is_some_and(|g| g.is_whole) || problems(&index, id, &candidate.version.references).is_empty();
            (id.clone(), Good { version: candidate.version.clone(), file: candidate.home.file.to_owned(), is_whole })
        };
        candidates.iter().map(accept).collect()
    }

    fn batch(&mut self, desired: BTreeMap<ResourceKey, Resource>, report: Report) -> Batch {
        let gone = self.published.keys().filter(|key| !desired.contains_key(key));
        let mut changes: Vec<Change> = gone.cloned().map(Change::Remove).collect();
        let news = desired.iter().filter(|(key, resource)| self.published.get(key) != Some(resource));
        changes.extend(news.map(|(_, resource)| Change::Upsert(resource.clone())));
        let fresh: Vec<Located> = report.findings.difference(&self.reported).cloned().collect();
        let subject = |l: &Located| (l.file.clone(), l.resource.clone(), if l.resource.is_empty() { l.line } else { 0 });
        let rejected = fresh.iter().filter(|l| report.rejected.contains(l)).map(subject).collect::<BTreeSet<_>>().len();
        self.published = desired;
        self.reported = report.findings.clone();
        Batch { changes, findings: report.findings.into_iter().collect(), fresh, rejected }
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

fn sort_out<'f>(files: &'f Files, report: &mut Report) -> Objects<'f> {
    let mut objects = Objects::default();
    let mut skipped = BTreeSet::new();
    for (path, file) in files {
        if let Some(broken) = &file.broken {
            report.error(Home { file: path, piece: None }, broken.at, String::new(), broken.message.clone());
        }
        for piece in &file.pieces {
            let home = Home { file: path, piece: Some(piece) };
            for broken in &piece.body.broken {
                report.error(home, broken.at, String::new(), broken.message.clone());
                if broken.text.contains("AuthorizationPolicy") {
                    objects.lost_policies.push((home, broken.at, &broken.text));
                }
            }
            piece.body.objects.iter().for_each(|object| objects.sort_in(home, object, &mut skipped, report));
        }
    }
    let foreign = std::mem::take(&mut objects.foreign_gateways);
    // A route of somebody else's Gateway, with features that are none of our business.
    objects.ours.retain(|_, (_, d)| d.gateways_only.is_empty() || !d.gateways_only.iter().all(|g| foreign.contains_key(g)));
    objects.foreign_gateways = foreign;
    objects
}

/// Unreadable policies, less those that can be taken for a newer version of a kept one.
fn unclaimed(lost: &[(Home<'_>, Position, &str)], mut kept: Vec<(&ResourceId, &Path)>) -> Vec<Resource> {
    let mut claim = |file: &Path, text: Option<&str>| {
        let same = |(id, path): &(&ResourceId, &Path)| *path == file && text.is_none_or(|t| t.contains(&*id.name.name));
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

fn problems(index: &Index<'_>, id: &ResourceId, references: &[Reference]) -> Vec<Issue> {
    // A policy for what does not exist is harmless; the linter tells.
    if id.kind == Kind::AuthorizationPolicy {
        return Vec::new();
    }
    let mut found: Vec<Issue> = Vec::new();
    for reference in references {
        let Some(message) = index.problem(&reference.referent) else { continue };
        // A missing service is missing with its port, too: say it once.
        let beside = |last: &Issue| last.field.rsplit_once('.').map(|f| f.0) == reference.field.rsplit_once('.').map(|f| f.0);
        if found.last().is_none_or(|last| last.message != message || !beside(last)) {
            found.push(Issue { severity: Severity::Error, at: reference.at, field: reference.field.clone(), message });
        }
    }
    found
}

/// The resources of all candidates, with references resolved, by key.
fn resolve(
    objects: &Objects<'_>,
    candidates: &BTreeMap<ResourceId, Candidate<'_>>,
    stand_ins: impl Iterator<Item = Resource>,
    report: &mut Report,
) -> BTreeMap<ResourceKey, Resource> {
    let index = Index::new(candidates.values().flat_map(|c| &c.version.resources), &objects.foreign_gateways);
    let mut desired = BTreeMap::new();
    for (id, candidate) in candidates {
        if candidate.is_current {
            let rejects = candidate.is_changed;
            problems(&index, id, &candidate.version.references)
                .into_iter()
                .for_each(|issue| report.add(candidate.home, id.to_string(), issue, rejects));
        }
        for resource in &candidate.version.resources {
            match desired.entry(resource.key()) {
                btree_map::Entry::Vacant(vacant) => drop(vacant.insert(index.complete(resource, &candidate.version.references))),
                btree_map::Entry::Occupied(_) => {
                    let at = objects.ours.get(id).map(|(_, d)| d.at).unwrap_or_default();
                    let message = format!("{} is already declared by another resource", key_words(&resource.key()));
                    report.error(candidate.home, at, id.to_string(), message);
                }
            }
        }
    }
    desired.extend(stand_ins.map(|resource| (resource.key(), resource)));
    for gateway in objects.foreign_gateways.values() {
        let resource = Resource::from((*gateway).clone());
        desired.entry(resource.key()).or_insert(resource);
    }
    desired
}

fn key_words(key: &ResourceKey) -> String {
    match key {
        ResourceKey::Namespace(name) | ResourceKey::Workload(name) => name.to_string(),
        ResourceKey::Service(service) => format!("host {service}"),
        ResourceKey::Endpoints(id) => id.to_string(),
        ResourceKey::Waypoint(name) | ResourceKey::Route(name) | ResourceKey::Policy(name) => name.to_string(),
    }
}
