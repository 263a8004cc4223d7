//! Manifests as a cluster would hold them, in few words. `NET.` stands for the test's network.

use std::fmt::Write as _;

/// Namespace `ns` whose services use the waypoint `waypoint`.
pub fn namespace(name: &str) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{istio.io/use-waypoint: waypoint}}}}\n")
}

/// The Gateway `waypoint`, its Service at NET.2 and its pod at NET.3.
pub fn waypoint(ns: &str, traffic: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: waypoint, namespace: {ns}, labels: {{istio.io/waypoint-for: {traffic}}}}}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]
---
apiVersion: v1
kind: Service
metadata: {{name: waypoint, namespace: {ns}}}
spec:
  clusterIP: NET.2
  selector: {{gateway.networking.k8s.io/gateway-name: waypoint}}
  ports: [{{name: mesh, port: 15008, appProtocol: tcp}}]
---
apiVersion: v1
kind: Pod
metadata:
  name: waypoint-0
  namespace: {ns}
  labels: {{gateway.networking.k8s.io/gateway-name: waypoint, gateway.istio.io/managed: istio.io-mesh-controller}}
spec: {{serviceAccountName: waypoint, containers: [{{name: c}}]}}
status: {{phase: Running, podIP: NET.3}}
"
    )
}

/// A Service at NET.`vip` that selects pods by `app`. Ports: (name, port, target).
pub fn service(ns: &str, name: &str, vip: u8, ports: &[(&str, u16, u16)]) -> String {
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {ns}}}\nspec:\n  clusterIP: NET.{vip}\n  selector: {{app: {name}}}\n  ports:\n"
    );
    for (port_name, port, target) in ports {
        let _ = writeln!(text, "  - {{name: {port_name}, port: {port}, targetPort: {target}}}");
    }
    text
}

/// A pod of `app` at NET.`ip` that runs as service account `account` and speaks HBONE.
pub fn pod(ns: &str, name: &str, app: &str, account: &str, ip: u8) -> String {
    pod_with(ns, name, app, account, ip, "annotations: {ambient.istio.io/redirection: enabled}")
}

/// A pod outside the mesh.
pub fn plain_pod(ns: &str, name: &str, app: &str, account: &str, ip: u8) -> String {
    pod_with(ns, name, app, account, ip, "annotations: {}")
}

fn pod_with(ns: &str, name: &str, app: &str, account: &str, ip: u8, metadata: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {ns}
  labels: {{app: {app}, version: {name}}}
  {metadata}
spec: {{serviceAccountName: {account}, containers: [{{name: c}}]}}
status: {{phase: Running, podIP: NET.{ip}}}
"
    )
}

/// An HTTPRoute on a Service, with the rules as YAML at the start of the line.
pub fn route(ns: &str, name: &str, service: &str, rules: &str) -> String {
    attached_route(ns, name, &format!("{{group: \"\", kind: Service, name: {service}}}"), rules)
}

/// An HTTPRoute with this parentRef.
pub fn attached_route(ns: &str, name: &str, parent: &str, rules: &str) -> String {
    let rules = rules.trim_matches('\n').lines().map(|l| format!("  {l}\n")).collect::<String>();
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {ns}}}
spec:
  parentRefs: [{parent}]
  rules:
{rules}"
    )
}

/// An AuthorizationPolicy; `spec` as YAML at the start of the line.
pub fn policy(ns: &str, name: &str, spec: &str) -> String {
    let spec = spec.trim_matches('\n').lines().map(|l| format!("  {l}\n")).collect::<String>();
    format!("---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {ns}}}\nspec:\n{spec}")
}
