//! The environment as a value, so that it can be read without the process's own: variables, and the
//! files that Istio's charts mount.

use super::{UsageError, values::boolean};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// Where Istio's charts mount what a proxy is told, from the directory that the image runs in: the
/// mesh configuration, the labels of the pod, a token for the control plane and its root certificates.
const MESH_CONFIG: &str = "etc/istio/config/mesh";
const POD_LABELS: &str = "etc/istio/pod/labels";
const TOKEN: &str = "var/run/secrets/tokens/istio-token";
const ROOT_CERTIFICATES: &str = "var/run/secrets/istio/root-cert.pem";

/// Variables by name. One that is empty counts as not set: charts write out what has no value.
#[derive(Debug, Clone)]
pub struct Environment {
    variables: BTreeMap<String, Variable>,
    directory: PathBuf,
}

#[derive(Debug, Clone)]
struct Variable {
    value: String,
    // What the operator wrote it as.
    origin: String,
}

/// For these, empty says that there is no such server, where there would be one by default.
const EMPTY_IS_OFF: [&str; 2] = ["XDS_ADDRESS", "CA_ADDRESS"];

impl Environment {
    /// The process's own.
    pub fn process() -> Self {
        let text = |raw: std::ffi::OsString| raw.to_string_lossy().into_owned();
        std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
    }

    /// The same, with the files that charts mount in another directory than the current one.
    #[must_use]
    pub fn in_directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = path.into();
        self
    }

    /// The value of a variable, if it is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(|v| v.value.as_str())
    }

    /// The names that begin so.
    pub(super) fn beginning_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.variables.keys().filter(move |name| name.starts_with(prefix)).map(String::as_str)
    }

    /// What the operator wrote the variable as.
    pub(super) fn origin(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", |v| v.origin.as_str())
    }

    /// The value, read by `parse`.
    pub(super) fn parsed<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, UsageError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        parse(value).map(Some).map_err(|reason| UsageError::variable(self.origin(name), value, reason))
    }

    /// A variable that is `true` or `false`.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, UsageError> {
        self.parsed(name, boolean)
    }

    /// Whether a kubelet started this process.
    pub(super) fn is_kubernetes(&self) -> bool {
        self.get("KUBERNETES_SERVICE_HOST").is_some()
    }

    pub(super) fn set(&mut self, name: &str, value: String, origin: &str) {
        self.variables.insert(name.to_owned(), Variable { value, origin: origin.to_owned() });
    }

    pub(super) fn set_missing(&mut self, name: &str, value: String, origin: &str) {
        self.variables.entry(name.to_owned()).or_insert_with(|| Variable { value, origin: origin.to_owned() });
    }

    /// Makes `name` what `stronger` is, if that is set.
    pub(super) fn alias(&mut self, stronger: &str, name: &str) {
        if let Some(variable) = self.variables.get(stronger).cloned() {
            self.variables.insert(name.to_owned(), variable);
        }
    }

    /// Makes `name` what `weaker` is, if it is not set itself.
    pub(super) fn fall_back(&mut self, name: &str, weaker: &str) {
        if let Some(variable) = self.variables.get(weaker).cloned() {
            self.variables.entry(name.to_owned()).or_insert(variable);
        }
    }

    /// Where the mesh configuration is.
    pub(super) fn mesh_config(&self) -> PathBuf {
        self.directory.join(MESH_CONFIG)
    }

    /// Where the token for the control plane is.
    pub(super) fn token_file(&self) -> PathBuf {
        self.directory.join(TOKEN)
    }

    /// Where the control plane's root certificates are.
    pub(super) fn root_certificates(&self) -> PathBuf {
        self.directory.join(ROOT_CERTIFICATES)
    }

    /// The labels of the pod, in the form of the downward API: `key="value"`, one to a line. None
    /// where there is no such file.
    pub(super) fn pod_labels(&self) -> Result<BTreeMap<String, String>, UsageError> {
        let text = read(&self.directory.join(POD_LABELS))?.unwrap_or_default();
        let label = |line: &str| line.split_once('=').map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()));
        Ok(text.lines().filter_map(label).collect())
    }
}

/// A file's text, if the file is there.
pub(super) fn read(path: &Path) -> Result<Option<String>, UsageError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(UsageError::wrong(format!("{}: {error}", path.display()))),
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut all = Self { variables: BTreeMap::new(), directory: ".".into() };
        for (name, value) in pairs.into_iter().map(|(name, value)| (name.into(), value.into())) {
            if !value.is_empty() {
                all.set(&name, value, &name);
            } else if EMPTY_IS_OFF.contains(&name.as_str()) {
                all.set(&name, "off".to_owned(), &name);
            }
        }
        all
    }
}
