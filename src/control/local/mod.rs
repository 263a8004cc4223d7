//! The reference ztunnel's local file (contract, 7): workloads, services and policies in the terms of
//! Istio's workload API, written as YAML. It is read once.
//!
//! `schema` has the file's own types, and one file for each kind of thing turns them into the model.
//! What is not understood refuses the whole file: a policy that lost a condition would open what it
//! was written to close.

mod address;
mod policy;
mod schema;
mod service;
mod workload;

#[cfg(test)]
mod tests;

use super::{
    documents::{self, MAX_BYTES},
    located::Located,
    manifest::Batch,
    typed::{Typed, typed},
    yaml::{self, Node, Position},
};
use crate::{
    model::{Name, Severity},
    state::Change,
};
use schema::{File, Mapping};

/// What the words of a local file mean here.
#[derive(Debug, Clone)]
pub struct Config {
    /// The proxy's own network; empty when networks have no names.
    pub network: String,
    /// The cluster's DNS domain, `cluster.local` mostly.
    pub cluster_domain: String,
    /// The namespace whose policies hold for the whole mesh, `istio-system` mostly.
    pub root_namespace: String,
}

impl Config {
    /// A network as the model names it: the proxy's own has no name there.
    fn network(&self, name: &str) -> Option<Name> {
        (name != self.network).then(|| name.into())
    }
}

/// Reads a local file; `name` is what findings call it.
///
/// # Errors
/// Everything that is wrong with it, by line. It counts as a whole or not at all.
pub fn load(text: &str, name: &str, config: &Config) -> Result<Vec<Change>, Vec<Located>> {
    let document = document(text).map_err(|(at, message)| vec![located(name, at, String::new(), message)])?;
    let mut cx = Cx { config, file: name, node: &document, errors: Vec::new() };
    yaml::faults(&document, "", &mut |path, at, fault| cx.errors.push(located(name, at, path.to_owned(), fault.into())));
    let Typed { value, unknown } = typed::<Mapping<File>>(&document);
    for path in unknown {
        cx.errors.push(located(name, yaml::locate_key(&document, &path), path, "unknown field".into()));
    }
    let changes = match value {
        Ok(file) => changes(&mut cx, &file),
        Err((path, message)) => {
            cx.error(&path, message);
            Vec::new()
        }
    };
    if cx.errors.is_empty() {
        return Ok(changes);
    }
    cx.errors.sort();
    Err(cx.errors)
}

/// The same as a batch, in the form in which other sources hand theirs over.
pub fn batch(text: &str, name: &str, config: &Config) -> Batch {
    match load(text, name, config) {
        Ok(changes) => Batch { changes, ..Batch::default() },
        Err(findings) => Batch { rejected: findings.len(), fresh: findings.clone(), findings, ..Batch::default() },
    }
}

/// The only document of a file.
fn document(text: &str) -> Result<Node, (Position, String)> {
    if text.len() > MAX_BYTES {
        return Err((Position::default(), format!("larger than {MAX_BYTES} bytes")));
    }
    let mut documents = documents::tagged(text.as_bytes(), schema::TAGS).into_iter();
    let first = documents.next().ok_or_else(|| (Position::default(), "nothing is in it".to_owned()))?;
    let first = first.map_err(|broken| (broken.at, broken.message))?;
    match documents.next() {
        None => Ok(first),
        Some(Ok(second)) => Err((second.at, "a local file is one document".into())),
        Some(Err(broken)) => Err((broken.at, broken.message)),
    }
}

fn changes(cx: &mut Cx<'_>, file: &File) -> Vec<Change> {
    let mut changes = Vec::new();
    changes.extend(workload::workloads(cx, file).into_iter().map(|workload| Change::Upsert(workload.into())));
    changes.extend(service::services(cx, file).into_iter().map(|service| Change::Upsert(service.into())));
    changes.extend(policy::policies(cx, file).into_iter().map(|policy| Change::Upsert(policy.into())));
    changes
}

fn located(file: &str, at: Position, field: String, message: String) -> Located {
    Located::new(file.to_owned(), at, Severity::Error, String::new(), field, message)
}

/// The file that is being decoded, and what is wrong with it.
struct Cx<'a> {
    config: &'a Config,
    file: &'a str,
    node: &'a Node,
    errors: Vec<Located>,
}

impl Cx<'_> {
    fn error(&mut self, field: &str, message: impl Into<String>) {
        self.errors.push(located(self.file, yaml::locate(self.node, field), field.to_owned(), message.into()));
    }

    /// Text that must be there.
    fn required(&mut self, field: &str, text: &str) {
        if text.is_empty() {
            self.error(field, "must not be empty");
        }
    }

    /// A port that something is reached at.
    fn port(&mut self, field: &str, port: u16) {
        if port == 0 {
            self.error(field, "port 0 is none");
        }
    }

    /// The pairs of a mapping from ports to ports. What 0 as a target means is for the caller.
    fn ports(&mut self, field: &str, ports: &schema::Ports) -> Vec<(u16, u16)> {
        let mut pairs = Vec::with_capacity(ports.len());
        for (port, target) in ports {
            match port.parse::<u16>() {
                Ok(port) if port > 0 => pairs.push((port, *target)),
                Ok(_) | Err(_) => self.error(&yaml::join(field, port), format!("{port:?} is not a port between 1 and 65535")),
            }
        }
        pairs.sort_unstable();
        pairs
    }
}
