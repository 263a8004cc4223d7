//! One stream of delta ADS, as a control plane keeps it (contract, 3.2).

use super::{
    Kind,
    faults::Script,
    observed::{Observed, Request},
    shared::Shared,
    table::{Entry, Table},
};
use crate::{
    model::Name,
    proto::discovery::{
        Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource, aggregated_discovery_service_server::AggregatedDiscoveryService,
    },
};
use futures_util::Stream;
use prost_types::value::Kind as Value;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{Notify, mpsc, watch};
use tonic::{Response, Status, Streaming};

/// What a stream is told from outside, until it has time for it. Names that change twice stand in it
/// once, so it does not outgrow the mesh.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    news: Mutex<News>,
    is_filled: Notify,
}

#[derive(Debug, Default)]
struct News {
    changed: BTreeSet<(Kind, Name)>,
    // To be said as they are.
    raw: Vec<DeltaDiscoveryResponse>,
    end: Option<Status>,
}

impl Mailbox {
    /// These resources may have changed.
    pub(super) fn changed(&self, names: &[(Kind, Name)]) {
        self.put(|news| news.changed.extend(names.iter().cloned()));
    }

    /// Say this, whatever it is.
    pub(super) fn say(&self, response: &DeltaDiscoveryResponse) {
        self.put(|news| news.raw.push(response.clone()));
    }

    /// End with this status.
    pub(super) fn end(&self, status: &Status) {
        self.put(|news| news.end = Some(status.clone()));
    }

    fn put(&self, put: impl FnOnce(&mut News)) {
        put(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner));
        self.is_filled.notify_one();
    }

    fn take(&self) -> News {
        std::mem::take(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The service.
#[derive(Debug, Clone)]
pub(super) struct Ads(pub(super) Arc<Shared>);

type Answers = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type DeltaAggregatedResourcesStream = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (_, headers) = self.0.admit(request.metadata())?;
        let (answers, mut rest) = mpsc::channel(1);
        let mailbox = Arc::new(Mailbox::default());
        let number = self.0.open_stream(&mailbox);
        let stream = AdsStream {
            number,
            headers,
            script: self.0.faults.script(),
            shared: self.0.clone(),
            watching: BTreeMap::new(),
            mailbox,
            waiting: VecDeque::new(),
            nonce: 0,
        };
        tokio::spawn(stream.run(request.into_inner(), answers));
        Ok(Response::new(Box::pin(futures_util::stream::poll_fn(move |cx| rest.poll_recv(cx)))))
    }
}

struct AdsStream {
    number: usize,
    headers: BTreeMap<String, String>,
    shared: Arc<Shared>,
    script: watch::Receiver<Script>,
    watching: BTreeMap<Kind, Watching>,
    mailbox: Arc<Mailbox>,
    // Not sent yet.
    waiting: VecDeque<(Kind, DeltaDiscoveryResponse)>,
    nonce: u64,
}

/// What the client wants of a type, and what it has.
#[derive(Debug, Default)]
struct Watching {
    is_wildcard: bool,
    keys: BTreeSet<String>,
    // With versions.
    has: BTreeMap<Name, Name>,
}

impl AdsStream {
    async fn run(mut self, requests: Streaming<DeltaDiscoveryRequest>, answers: Answers) {
        if let Some(status) = self.serve(requests, &answers).await {
            // A client that is gone need not be told.
            let _ = answers.send(Err(status)).await;
        }
        self.shared.observe(|observed| observed.open_streams -= 1);
    }

    /// Until the client is gone, or there is a status to end with. What has changed meanwhile waits as
    /// long as the client does not take what there is.
    async fn serve(&mut self, mut requests: Streaming<DeltaDiscoveryRequest>, answers: &Answers) -> Option<Status> {
        let mailbox = self.mailbox.clone();
        loop {
            let next = self.next();
            tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.hear(request),
                    Ok(None) | Err(_) => return None,
                },
                permit = answers.reserve(), if next.is_some() => {
                    let response = next.and_then(|at| self.waiting.remove(at));
                    response.into_iter().zip(permit.ok()).for_each(|((_, response), permit)| permit.send(Ok(response)));
                }
                () = mailbox.is_filled.notified(), if next.is_none() => {
                    let news = mailbox.take();
                    if news.end.is_some() {
                        return news.end;
                    }
                    self.learn(news);
                }
                changed = self.script.changed() => if changed.is_err() {
                    return Some(Status::unavailable("the control plane ends"));
                },
                () = answers.closed() => return None,
            }
        }
    }

    /// The first response that is not held back.
    fn next(&self) -> Option<usize> {
        let script = self.script.borrow();
        self.waiting.iter().position(|(kind, _)| !script.held.contains(kind))
    }

    fn hear(&mut self, message: DeltaDiscoveryRequest) {
        self.shared.observe(|observed| observed.requests.push(self.noted(&message)));
        let Some(kind) = Kind::of(&message.type_url) else { return };
        let shared = self.shared.clone();
        let tables = shared.tables();
        let table = tables.of(kind);
        let (resources, removed) = match self.watching.get_mut(&kind) {
            None => {
                let watching = self.watching.entry(kind).or_insert(Watching::new(message));
                watching.everything(table)
            }
            Some(_) if message.resource_names_subscribe.is_empty() && message.resource_names_unsubscribe.is_empty() => return,
            Some(watching) => match watching.change(message, table) {
                Some(answer) => answer,
                None => return,
            },
        };
        drop(tables);
        self.say(kind, resources, removed);
    }

    fn learn(&mut self, news: News) {
        let shared = self.shared.clone();
        let tables = shared.tables();
        let mut answers = Vec::new();
        for (kind, watching) in &mut self.watching {
            let names = news.changed.iter().filter(|(of, _)| of == kind).map(|(_, name)| name);
            let (resources, removed) = watching.update(tables.of(*kind), names);
            if !resources.is_empty() || !removed.is_empty() {
                answers.push((*kind, resources, removed));
            }
        }
        drop(tables);
        answers.into_iter().for_each(|(kind, resources, removed)| self.say(kind, resources, removed));
        for response in news.raw {
            let kind = Kind::of(&response.type_url).unwrap_or(Kind::Address);
            let response = DeltaDiscoveryResponse { nonce: self.next_nonce(), ..response };
            self.waiting.push_back((kind, response));
        }
    }

    fn say(&mut self, kind: Kind, resources: Vec<Resource>, removed: Vec<String>) {
        let response = DeltaDiscoveryResponse {
            system_version_info: self.shared.version().to_string(),
            resources: resources.into_iter().map(|resource| of_type(resource, kind)).collect(),
            type_url: kind.url().to_owned(),
            nonce: self.next_nonce(),
            removed_resources: removed,
        };
        self.waiting.push_back((kind, response));
    }

    fn next_nonce(&mut self) -> String {
        self.nonce += 1;
        format!("{}-{}", self.number, self.nonce)
    }

    fn noted(&self, message: &DeltaDiscoveryRequest) -> Request {
        let node = message.node.clone().unwrap_or_default();
        let text = |value: &prost_types::Value| match &value.kind {
            Some(Value::StringValue(text)) => Some(text.clone()),
            Some(Value::NullValue(_) | Value::NumberValue(_) | Value::BoolValue(_) | Value::StructValue(_) | Value::ListValue(_))
            | None => None,
        };
        let fields = node.metadata.map(|metadata| metadata.fields).unwrap_or_default();
        Request {
            stream: self.number,
            headers: self.headers.clone(),
            node: node.id,
            metadata: fields.iter().filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect(),
            type_url: message.type_url.clone(),
            subscribe: message.resource_names_subscribe.clone(),
            unsubscribe: message.resource_names_unsubscribe.clone(),
            initial_versions: message.initial_resource_versions.clone(),
            nonce: message.response_nonce.clone(),
            error: message.error_detail.as_ref().map(|status| status.message.clone()),
        }
    }
}

impl Watching {
    /// What the first message of a type asks for: everything, unless it names something; `*` given up
    /// in the same message is what a client that asks on demand begins with.
    fn new(message: DeltaDiscoveryRequest) -> Self {
        let (wanted, unwanted) = (message.resource_names_subscribe, message.resource_names_unsubscribe);
        let is_star = |name: &String| name == "*";
        Self {
            is_wildcard: (wanted.is_empty() || wanted.iter().any(is_star)) && !unwanted.iter().any(is_star),
            keys: wanted.into_iter().filter(|name| name != "*").collect(),
            has: message.initial_resource_versions.into_iter().map(|(name, version)| (name.into(), version.into())).collect(),
        }
    }

    /// The first answer: what the client lacks or has in another version, and what it has that is gone.
    fn everything(&mut self, table: &Table) -> (Vec<Resource>, Vec<String>) {
        let mut names: BTreeSet<Name> = self.has.keys().cloned().collect();
        let unknown = self.keys.iter().filter(|key| table.meant_by(key).is_empty()).cloned().collect::<Vec<_>>();
        if self.is_wildcard {
            names.extend(table.names().cloned());
        }
        names.extend(self.keys.iter().flat_map(|key| table.meant_by(key)));
        let (resources, mut removed) = self.update(table, names.iter());
        removed.extend(unknown.into_iter().filter(|key| !names.contains(key.as_str())));
        (resources, removed)
    }

    /// Other names; what is asked for anew is answered even if the client has it. As with istiod, there is
    /// no answer to names that are subscribed to already, and a name that is asked for and given up in one
    /// message stays what it was.
    fn change(&mut self, message: DeltaDiscoveryRequest, table: &Table) -> Option<(Vec<Resource>, Vec<String>)> {
        let (wanted, unwanted) = (message.resource_names_subscribe, message.resource_names_unsubscribe);
        for key in unwanted.iter().filter(|key| !wanted.contains(key)) {
            self.is_wildcard &= key != "*";
            self.keys.remove(key);
            self.has.remove(key.as_str());
        }
        let new: Vec<String> = wanted.into_iter().filter(|key| !unwanted.contains(key) && !self.keys.contains(key)).collect();
        if new.is_empty() {
            return None;
        }
        let (mut resources, mut removed) = (Vec::new(), Vec::new());
        let mut said = BTreeSet::new();
        for key in new {
            let meant = table.meant_by(&key);
            if meant.is_empty() {
                removed.push(key.clone());
            }
            for name in meant.into_iter().filter(|name| said.insert(name.clone())) {
                resources.extend(table.get(&name).map(|entry| self.given(&name, entry)));
            }
            self.keys.insert(key);
        }
        Some((resources, removed))
    }

    /// What of these names is news to the client.
    fn update<'a>(&mut self, table: &Table, names: impl Iterator<Item = &'a Name>) -> (Vec<Resource>, Vec<String>) {
        let (mut resources, mut removed) = (Vec::new(), Vec::new());
        for name in names {
            match table.get(name) {
                Some(entry) if self.has.get(name) == Some(&entry.version) => {}
                Some(entry) if self.wants(name, entry) => resources.push(self.given(name, entry)),
                Some(_) => {}
                None if self.has.remove(name).is_some() => removed.push(name.to_string()),
                None => {}
            }
        }
        (resources, removed)
    }

    fn wants(&self, name: &Name, entry: &Entry) -> bool {
        let is_asked_for = |key: &Name| self.keys.contains(&**key);
        let has_service = |service: &Name| is_asked_for(service) || self.has.contains_key(service);
        self.is_wildcard
            || self.has.contains_key(name)
            || is_asked_for(name)
            || entry.aliases.iter().any(is_asked_for)
            || entry.services.iter().any(has_service)
    }

    fn given(&mut self, name: &Name, entry: &Entry) -> Resource {
        self.has.insert(name.clone(), entry.version.clone());
        Resource {
            version: entry.version.to_string(),
            resource: Some(Any { type_url: String::new(), value: entry.value.clone() }),
            name: name.to_string(),
            aliases: entry.aliases.iter().map(Name::to_string).collect(),
        }
    }
}

fn of_type(mut resource: Resource, kind: Kind) -> Resource {
    resource.resource = resource.resource.map(|any| Any { type_url: kind.url().to_owned(), ..any });
    resource
}

impl Observed {
    /// A stream was accepted; its number.
    pub(super) fn stream(&mut self) -> usize {
        self.streams += 1;
        self.open_streams += 1;
        self.streams
    }
}
