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
    sync::Arc,
};
use tokio::sync::{mpsc, watch};
use tonic::{Response, Status, Streaming};

/// What a stream is told from outside.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// These resources may have changed.
    Changed(Arc<Vec<(Kind, Name)>>),
    /// Say this, whatever it is.
    Say(Arc<DeltaDiscoveryResponse>),
    /// End with this status.
    End(Arc<Status>),
}

/// The service.
#[derive(Debug, Clone)]
pub(super) struct Ads(pub(super) Arc<Shared>);

type Answers = mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, Status>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type DeltaAggregatedResourcesStream = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (_, headers) = self.0.admit(request.metadata())?;
        let (answers, mut rest) = mpsc::unbounded_channel();
        let (number, events) = self.0.open_stream();
        let stream = AdsStream {
            number,
            headers,
            script: self.0.faults.script(),
            shared: self.0.clone(),
            watching: BTreeMap::new(),
            held: VecDeque::new(),
            answers,
            nonce: 0,
        };
        tokio::spawn(stream.run(request.into_inner(), events));
        Ok(Response::new(Box::pin(futures_util::stream::poll_fn(move |cx| rest.poll_recv(cx)))))
    }
}

struct AdsStream {
    number: usize,
    headers: BTreeMap<String, String>,
    shared: Arc<Shared>,
    script: watch::Receiver<Script>,
    watching: BTreeMap<Kind, Watching>,
    held: VecDeque<(Kind, DeltaDiscoveryResponse)>,
    answers: Answers,
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
    async fn run(mut self, mut requests: Streaming<DeltaDiscoveryRequest>, mut events: mpsc::UnboundedReceiver<Event>) {
        loop {
            let is_on = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.hear(request),
                    Ok(None) | Err(_) => false,
                },
                event = events.recv() => match event {
                    Some(event) => self.learn(event),
                    None => false,
                },
                changed = self.script.changed() => changed.is_ok(),
                () = self.answers.closed() => false,
            };
            if !is_on {
                break;
            }
            self.flush();
        }
        self.shared.observe(|observed| observed.open_streams -= 1);
    }

    fn hear(&mut self, message: DeltaDiscoveryRequest) -> bool {
        self.shared.observe(|observed| observed.requests.push(self.noted(&message)));
        let Some(kind) = Kind::of(&message.type_url) else { return true };
        let shared = self.shared.clone();
        let tables = shared.tables();
        let table = tables.of(kind);
        let (resources, removed) = match self.watching.get_mut(&kind) {
            None => {
                let watching = self.watching.entry(kind).or_insert(Watching::new(message));
                watching.everything(table)
            }
            Some(watching) if message.resource_names_subscribe.is_empty() && message.resource_names_unsubscribe.is_empty() => {
                let _ = watching;
                return true;
            }
            Some(watching) => watching.change(message, table),
        };
        drop(tables);
        self.say(kind, resources, removed);
        true
    }

    fn learn(&mut self, event: Event) -> bool {
        match event {
            Event::Changed(names) => {
                let shared = self.shared.clone();
                let tables = shared.tables();
                let mut answers = Vec::new();
                for (kind, watching) in &mut self.watching {
                    let names = names.iter().filter(|(of, _)| of == kind).map(|(_, name)| name);
                    let (resources, removed) = watching.update(tables.of(*kind), names);
                    if !resources.is_empty() || !removed.is_empty() {
                        answers.push((*kind, resources, removed));
                    }
                }
                drop(tables);
                answers.into_iter().for_each(|(kind, resources, removed)| self.say(kind, resources, removed));
            }
            Event::Say(response) => {
                let response = DeltaDiscoveryResponse { nonce: self.next_nonce(), ..(*response).clone() };
                let kind = Kind::of(&response.type_url).unwrap_or(Kind::Address);
                self.held.push_back((kind, response));
            }
            Event::End(status) => {
                let _ = self.answers.send(Err((*status).clone()));
                return false;
            }
        }
        true
    }

    fn say(&mut self, kind: Kind, resources: Vec<Resource>, removed: Vec<String>) {
        let response = DeltaDiscoveryResponse {
            system_version_info: self.shared.version().to_string(),
            resources: resources.into_iter().map(|resource| of_type(resource, kind)).collect(),
            type_url: kind.url().to_owned(),
            nonce: self.next_nonce(),
            removed_resources: removed,
        };
        self.held.push_back((kind, response));
    }

    fn next_nonce(&mut self) -> String {
        self.nonce += 1;
        format!("{}-{}", self.number, self.nonce)
    }

    /// Sends what is not held back.
    fn flush(&mut self) {
        let script = self.script.borrow_and_update().clone();
        for (kind, response) in std::mem::take(&mut self.held) {
            if script.held.contains(&kind) {
                self.held.push_back((kind, response));
            } else {
                // A client that is gone is noticed in the loop.
                let _ = self.answers.send(Ok(response));
            }
        }
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

    /// Other names; what is asked for is answered even if the client has it.
    fn change(&mut self, message: DeltaDiscoveryRequest, table: &Table) -> (Vec<Resource>, Vec<String>) {
        for key in &message.resource_names_unsubscribe {
            self.is_wildcard &= key != "*";
            self.keys.remove(key);
            self.has.remove(key.as_str());
        }
        let (mut resources, mut removed) = (Vec::new(), Vec::new());
        let mut said = BTreeSet::new();
        for key in message.resource_names_subscribe {
            let meant = table.meant_by(&key);
            if meant.is_empty() {
                removed.push(key.clone());
            }
            for name in meant.into_iter().filter(|name| said.insert(name.clone())) {
                resources.extend(table.get(&name).map(|entry| self.given(&name, entry)));
            }
            self.keys.insert(key);
        }
        (resources, removed)
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
