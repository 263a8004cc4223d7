//! The meshes, as manifests.

use super::site::Site;
use std::{fmt::Write as _, path::PathBuf};

/// Which mesh a proxy is started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mesh {
    /// The service under load, with a route and a policy: the same as in `envoy.yaml`.
    One,
    /// Besides it a thousand services, each with ten routes and ten policies.
    Thousand,
    /// Besides it as many services as the site says, each with a pod, a route and a policy, in so many
    /// files; the route of the service under load has a file of its own.
    Large { files: usize },
    /// The demo's.
    Bookinfo,
}

impl Mesh {
    pub fn gateway(self) -> &'static str {
        if self == Self::Bookinfo { "bookinfo/waypoint" } else { "bench/waypoint" }
    }

    /// The namespace of the waypoint.
    pub fn namespace(self) -> &'static str {
        if self == Self::Bookinfo { "bookinfo" } else { "bench" }
    }

    /// Writes the manifests, unless an earlier round has.
    pub fn write(self, site: &Site) -> PathBuf {
        let dir = match self {
            Self::Bookinfo => return PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/config/bookinfo")),
            Self::One => "mesh-one".to_owned(),
            Self::Thousand => "mesh-1k".to_owned(),
            Self::Large { files } => format!("mesh-large-{files}"),
        };
        site.write(&format!("{dir}/reviews.yaml"), &base(site));
        self.write_route(site, 0);
        match self {
            Self::One | Self::Bookinfo => {}
            _ if site.path(&dir).join("others-0.yaml").exists() => {}
            Self::Thousand => drop(site.write(&format!("{dir}/others-0.yaml"), &thousand())),
            Self::Large { files } => {
                let each = site.services.div_ceil(files);
                for file in 0..files {
                    site.write(&format!("{dir}/others-{file}.yaml"), &services(file * each..site.services.min((file + 1) * each)));
                }
            }
        }
        site.path(&dir)
    }

    /// Writes the route of the service under load: 90/10, with the number in a header of each answer.
    /// 0: without the header, as in `envoy.yaml`.
    pub fn write_route(self, site: &Site, number: usize) {
        let dir = match self {
            Self::Bookinfo => return,
            Self::One => "mesh-one".to_owned(),
            Self::Thousand => "mesh-1k".to_owned(),
            Self::Large { files } => format!("mesh-large-{files}"),
        };
        let mark = format!(
            "    filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-bench-version, value: \"{number}\"}}]}}}}]\n"
        );
        let mut text = String::new();
        route(&mut text, "reviews", "reviews", &format!("  - {SPLIT}\n{}", if number > 0 { &mark } else { "" }));
        site.write(&format!("{dir}/route.yaml"), &text);
    }
}

const SPLIT: &str = "backendRefs: [{name: reviews-v1, port: 80, weight: 90}, {name: reviews-v2, port: 80, weight: 10}]";

/// 90/10, default retries, GET and POST allowed.
fn base(site: &Site) -> String {
    let mut text = "{apiVersion: v1, kind: Namespace, metadata: {name: bench, labels: {istio.io/use-waypoint: waypoint}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: bench}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
"
    .to_owned();
    pod(&mut text, "workload", "reviews", &site.workload.ip().to_string());
    service(&mut text, "reviews", "reviews", &site.service.ip().to_string());
    service(&mut text, "reviews-v1", "reviews", "127.0.71.11");
    service(&mut text, "reviews-v2", "reviews", "127.0.71.12");
    policy(&mut text, "reviews", "reviews", "{operation: {methods: [GET, POST]}}");
    text
}

fn thousand() -> String {
    let mut text = String::new();
    for n in 0..1000 {
        let name = format!("other-{n}");
        service(&mut text, &name, "reviews", &format!("10.100.{}.{}", n / 250, n % 250));
        for r in 0..10 {
            let rule = format!("  - matches: [{{path: {{type: PathPrefix, value: /{r}}}}}]\n    {SPLIT}\n");
            route(&mut text, &format!("{name}-{r}"), &name, &rule);
            policy(&mut text, &format!("{name}-{r}"), &name, &format!("{{operation: {{paths: [/{r}*]}}}}"));
        }
    }
    text
}

fn services(numbers: std::ops::Range<usize>) -> String {
    let mut text = String::new();
    for n in numbers {
        let name = format!("other-{n}");
        service(&mut text, &name, &name, &format!("10.100.{}.{}", n / 250, n % 250));
        pod(&mut text, &name, &name, &format!("10.200.{}.{}", n / 250, n % 250));
        let backend = format!("backendRefs: [{{name: {name}, port: 80}}]");
        route(&mut text, &name, &name, &format!("  - matches: [{{path: {{type: PathPrefix, value: /api}}}}]\n    {backend}\n"));
        policy(&mut text, &name, &name, "{operation: {methods: [GET, POST]}}");
    }
    text
}

fn pod(text: &mut String, name: &str, app: &str, ip: &str) {
    let _ = write!(
        text,
        "---\napiVersion: v1\nkind: Pod\n\
         metadata: {{name: {name}, namespace: bench, labels: {{app: {app}}}, annotations: {{ambient.istio.io/redirection: enabled}}}}\n\
         spec: {{serviceAccountName: {name}, containers: [{{name: c}}]}}\nstatus: {{phase: Running, podIP: {ip}}}\n"
    );
}

fn service(text: &mut String, name: &str, app: &str, ip: &str) {
    let _ = write!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: bench}}\n\
         spec: {{clusterIP: {ip}, selector: {{app: {app}}}, ports: [{{port: 80, targetPort: 8080}}]}}\n"
    );
}

fn route(text: &mut String, name: &str, service: &str, rules: &str) {
    let _ = write!(
        text,
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: bench}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: {service}}}]\n  rules:\n{rules}"
    );
}

fn policy(text: &mut String, name: &str, service: &str, to: &str) {
    let _ = write!(
        text,
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: bench}}\n\
         spec: {{targetRefs: [{{group: \"\", kind: Service, name: {service}}}], action: ALLOW, rules: [{{to: [{to}]}}]}}\n"
    );
}
