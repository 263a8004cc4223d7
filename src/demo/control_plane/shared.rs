//! What the handle, the services and all streams of a control plane have in common.

use super::{
    Kind, Token,
    ads::Mailbox,
    authority::Authority,
    encode::Encoder,
    faults::Faults,
    observed::Observed,
    table::{Entry, Table},
};
use crate::{
    model::Name,
    state::{Change, Store},
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::watch;
use tonic::{Status, metadata::KeyAndValueRef, metadata::MetadataMap};

#[derive(Debug)]
pub(super) struct Shared {
    tables: Mutex<Tables>,
    authority: Mutex<Authority>,
    tokens: Mutex<Vec<Token>>,
    streams: Mutex<Vec<Weak<Mailbox>>>,
    version: AtomicU64,
    pub(super) observed: watch::Sender<Observed>,
    pub(super) faults: Faults,
}

/// The mesh and its encoded form.
#[derive(Debug)]
pub(super) struct Tables {
    store: Store<Encoder>,
    addresses: Table,
    authorizations: Table,
}

impl Tables {
    pub(super) fn of(&self, kind: Kind) -> &Table {
        match kind {
            Kind::Address => &self.addresses,
            Kind::Authorization => &self.authorizations,
        }
    }

    fn put(&mut self, kind: Kind, name: &Name, entry: Option<Entry>) -> bool {
        match kind {
            Kind::Address => self.addresses.put(name, entry),
            Kind::Authorization => self.authorizations.put(name, entry),
        }
    }
}

/// What a panic elsewhere left behind is as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(encoder: Encoder, authority: Authority, tokens: Vec<Token>) -> Self {
        let tables = Tables { store: Store::new(encoder), addresses: Table::default(), authorizations: Table::default() };
        Self {
            tables: Mutex::new(tables),
            authority: Mutex::new(authority),
            tokens: Mutex::new(tokens),
            streams: Mutex::default(),
            version: AtomicU64::new(0),
            observed: watch::Sender::new(Observed::default()),
            faults: Faults::new(),
        }
    }

    pub(super) fn tables(&self) -> MutexGuard<'_, Tables> {
        lock(&self.tables)
    }

    pub(super) fn authority(&self) -> MutexGuard<'_, Authority> {
        lock(&self.authority)
    }

    pub(super) fn set_tokens(&self, tokens: Vec<Token>) {
        *lock(&self.tokens) = tokens;
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    pub(super) fn observe<T>(&self, note: impl FnOnce(&mut Observed) -> T) -> T {
        let mut noted = None;
        self.observed.send_modify(|observed| noted = Some(note(observed)));
        match noted {
            Some(noted) => noted,
            None => unreachable!("send_modify calls what it is given"),
        }
    }

    /// Applies changes of the mesh, and tells every stream; how many resources look different.
    pub(super) fn apply(&self, changes: Vec<Change>) -> usize {
        let mut tables = self.tables();
        tables.store.apply(changes);
        let encoded = tables.store.handle().load();
        let put = encoded.0.iter().filter(|(kind, name, entry)| tables.put(*kind, name, entry.clone()));
        let changed = put.map(|(kind, name, _)| (*kind, name.clone())).collect::<Vec<_>>();
        drop(tables);
        self.changed(changed)
    }

    /// Replaces resources by any bytes at all.
    pub(super) fn put(&self, kind: Kind, entries: Vec<(Name, Option<Bytes>)>) -> usize {
        let mut tables = self.tables();
        let mut changed = Vec::new();
        for (name, value) in entries {
            let entry = value.map(|value| Entry::new(value.to_vec(), Vec::new(), Vec::new()));
            if tables.put(kind, &name, entry) {
                changed.push((kind, name));
            }
        }
        drop(tables);
        self.changed(changed)
    }

    fn changed(&self, names: Vec<(Kind, Name)>) -> usize {
        let count = names.len();
        if count > 0 {
            self.version.fetch_add(1, Ordering::Relaxed);
            self.tell(|mailbox| mailbox.changed(&names));
        }
        count
    }

    /// Tells every open stream.
    pub(super) fn tell(&self, tell: impl Fn(&Mailbox)) {
        lock(&self.streams).retain(|stream| stream.upgrade().inspect(|mailbox| tell(mailbox)).is_some());
    }

    /// Counts a stream, and tells it what happens from now on; its number.
    pub(super) fn open_stream(&self, mailbox: &Arc<Mailbox>) -> usize {
        lock(&self.streams).push(Arc::downgrade(mailbox));
        self.observe(Observed::stream)
    }

    /// Lets a call pass whose token is good; the token and all headers but it.
    pub(super) fn admit(&self, metadata: &MetadataMap) -> Result<(Token, BTreeMap<String, String>), Status> {
        let bearer = metadata.get("authorization").and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
        let token = lock(&self.tokens).iter().find(|token| Some(token.text.as_str()) == bearer).cloned();
        let Some(token) = token else {
            self.observe(|observed| observed.refused += 1);
            return Err(Status::unauthenticated("no valid token"));
        };
        let text = |entry: KeyAndValueRef<'_>| match entry {
            KeyAndValueRef::Ascii(key, value) => Some((key.to_string(), value.to_str().ok()?.to_owned())),
            KeyAndValueRef::Binary(..) => None,
        };
        let headers = metadata.iter().filter_map(text).filter(|(key, _)| key != "authorization");
        Ok((token, headers.collect()))
    }
}
