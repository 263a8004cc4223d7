//! Which objects the files define, by id, and where. Kept up to date file by file.

use super::{
    decode::{Decoded, Object, Version},
    file::{ManifestFile, Piece},
    report::Home,
};
use crate::model::ResourceId;
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

pub(super) type Files = BTreeMap<PathBuf, ManifestFile>;

/// Stands for an id. Given to another one when nothing is known of the first any more.
pub(super) type Slot = u32;

/// Where an object is defined. In the order in which files are read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    file: Arc<Path>,
    piece: u32,
    object: u32,
}

/// What is known of an id.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) id: ResourceId,
    /// In order; the first counts.
    places: Vec<Place>,
    pub(super) good: Option<Good>,
}

/// The last version of a resource that served.
#[derive(Debug, Clone)]
pub(super) struct Good {
    pub(super) version: Arc<Version>,
    pub(super) file: Arc<Path>,
    /// Its references held when it was accepted.
    pub(super) is_whole: bool,
}

/// All ids that are defined, or have a version that serves.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    slots: HashMap<ResourceId, Slot>,
    records: Vec<Option<Record>>,
    free: Vec<Slot>,
}

impl Record {
    /// Whether it is defined more than once.
    pub(super) fn is_doubled(&self) -> bool {
        self.places.len() > 1
    }

    /// Its definitions.
    pub(super) fn definitions<'f>(&self, files: &'f Files) -> impl Iterator<Item = (Home<'f>, &'f Decoded)> {
        self.places.iter().filter_map(|place| {
            let (path, file) = files.get_key_value(&*place.file)?;
            let piece = file.pieces.get(place.piece as usize)?;
            match piece.body.objects.get(place.object as usize)? {
                Object::Ours(decoded) => Some((Home { file: path, piece: Some(piece) }, &**decoded)),
                Object::Skipped { .. } | Object::Nameless { .. } => None,
            }
        })
    }

    /// The file of its first definition.
    pub(super) fn file(&self) -> Option<&Arc<Path>> {
        self.places.first().map(|place| &place.file)
    }
}

impl Ledger {
    pub(super) fn get(&self, slot: Slot) -> Option<&Record> {
        self.records.get(slot as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Record> {
        self.records.get_mut(slot as usize)?.as_mut()
    }

    /// How many ids there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Takes note of what a file says now, in place of what it said before. Hands out what has come,
    /// gone, or changed.
    pub(super) fn replace(&mut self, path: &Path, before: &[Piece], now: &[Piece], touched: &mut Vec<Slot>) {
        let file: Arc<Path> = path.into();
        let is_same = |(a, b): &(&Piece, &Piece)| Arc::ptr_eq(&a.body, &b.body);
        let head = before.iter().zip(now).take_while(is_same).count();
        let tail = before[head..].iter().rev().zip(now[head..].iter().rev()).take_while(is_same).count();
        let (old_end, new_end) = (before.len() - tail, now.len() - tail);
        let is_shifted = before.len() != now.len();
        let stays = |i: usize| !is_shifted && Arc::ptr_eq(&before[i].body, &now[i].body);
        for i in (head..old_end).filter(|i| !stays(*i)) {
            self.each(&file, &before[i], i, |ledger, decoded, place| touched.extend(ledger.forget(&decoded.id, &place)));
        }
        if is_shifted {
            // From the side to which they move, so that no two are ever taken for the same.
            let moves = |ledger: &mut Self, from_end: usize| {
                let (old, new) = (before.len() - 1 - from_end, now.len() - 1 - from_end);
                ledger.each(&file, &now[new], new, |ledger, decoded, place| {
                    let from = Place { piece: count(old), ..place.clone() };
                    ledger.relocate(&decoded.id, &from, place);
                });
            };
            if now.len() > before.len() {
                (0..tail).for_each(|i| moves(self, i));
            } else {
                (0..tail).rev().for_each(|i| moves(self, i));
            }
        }
        for i in (head..new_end).filter(|i| !stays(*i)) {
            self.each(&file, &now[i], i, |ledger, decoded, place| touched.push(ledger.define(&decoded.id, place)));
        }
    }

    fn each(&mut self, file: &Arc<Path>, piece: &Piece, index: usize, mut act: impl FnMut(&mut Self, &Decoded, Place)) {
        for (object, decoded) in piece.body.objects.iter().enumerate() {
            if let Object::Ours(decoded) = decoded {
                act(self, decoded, Place { file: file.clone(), piece: count(index), object: count(object) });
            }
        }
    }

    fn define(&mut self, id: &ResourceId, place: Place) -> Slot {
        if let Some(slot) = self.slots.get(id).copied() {
            if let Some(record) = self.get_mut(slot) {
                record.places.insert(record.places.partition_point(|other| *other < place), place);
            }
            return slot;
        }
        let record = Some(Record { id: id.clone(), places: vec![place], good: None });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.records[slot as usize] = record;
                slot
            }
            None => {
                self.records.push(record);
                count(self.records.len() - 1)
            }
        };
        self.slots.insert(id.clone(), slot);
        slot
    }

    fn forget(&mut self, id: &ResourceId, place: &Place) -> Option<Slot> {
        let slot = self.slots.get(id).copied()?;
        self.get_mut(slot)?.places.retain(|other| other != place);
        Some(slot)
    }

    fn relocate(&mut self, id: &ResourceId, from: &Place, to: Place) {
        let Some(record) = self.slots.get(id).copied().and_then(|slot| self.get_mut(slot)) else { return };
        // Their order among themselves stays.
        if let Some(place) = record.places.iter_mut().find(|place| *place == from) {
            *place = to;
        }
    }

    /// Gives a slot away of which nothing is known any more; whether it is so.
    pub(super) fn release(&mut self, slot: Slot) -> bool {
        let Some(entry) = self.records.get_mut(slot as usize) else { return false };
        let is_idle = entry.as_ref().is_some_and(|record| record.places.is_empty() && record.good.is_none());
        if is_idle && let Some(record) = entry.take() {
            self.slots.remove(&record.id);
            self.free.push(slot);
        }
        is_idle
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
