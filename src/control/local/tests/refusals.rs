//! What refuses a file, with the place and the words.

use super::*;

fn refused(text: &str) -> Vec<String> {
    let findings = load(text, "local.yaml", &config()).err().unwrap_or_default();
    findings.iter().map(ToString::to_string).collect()
}

/// The example with a piece replaced by another.
fn with(old: &str, new: &str) -> String {
    assert!(EXAMPLE.contains(old), "{old}");
    EXAMPLE.replacen(old, new, 1)
}

#[test]
fn each_with_its_place() {
    let rows = [
        // The file.
        (String::new(), ": error: nothing is in it"),
        ("# only this\n".into(), ": error: nothing is in it"),
        ("- a\n".into(), ":1:1: error: invalid type: list, expected a mapping"),
        ("workloads: []\n---\nservices: []\n".into(), ":3:1: error: a local file is one document"),
        ("workloads: [\n".into(), ":2:1: error: while parsing a node, did not find expected node content"),
        ("workloads: {}\n".into(), ":1:1: error: workloads: invalid type: mapping, expected a sequence"),
        ("pods: []\n".into(), ":1:1: error: pods: unknown field"),
        ("services: []\nservices: []\n".into(), ":2:1: error: services: duplicate key"),
        // Workloads.
        (with("  node: n2", "  nodeName: n2"), ":11:3: error: workloads[0].nodeName: unknown field"),
        (with("  trustDomain: cluster.local\n", ""), ":3:3: error: workloads[0]: missing field `trustDomain`"),
        (
            with("trustDomain: cluster.local", "trustDomain: ''"),
            ":7:16: error: workloads[0].trustDomain: \"\" cannot be part of an identity",
        ),
        (
            with("serviceAccount: server-sa", "serviceAccount: a/b"),
            ":6:19: error: workloads[0].serviceAccount: \"a/b\" cannot be part of an identity",
        ),
        (with("uid: lab/demo/server", "uid: ''"), ":3:8: error: workloads[0].uid: must not be empty"),
        (with("\"10.9.0.2\"", "\"10.9.0\""), ":8:17: error: workloads[0].workloadIps[0]: \"10.9.0\" is not an IP address"),
        (
            with("protocol: HBONE", "protocol: Hbone"),
            ":9:13: error: workloads[0].protocol: unknown variant `Hbone`, expected `TCP` or `HBONE`",
        ),
        (
            with("workloadType: deployment", "workloadType: statefulset"),
            ":13:17: error: workloads[0].workloadType: unknown variant `statefulset`, expected one of `deployment`, `cronjob`, `pod`, `job`",
        ),
        (
            with("status: Healthy", "status: healthy"),
            ":17:11: error: workloads[0].status: unknown variant `healthy`, expected `Healthy` or `Unhealthy`",
        ),
        (
            with("networkMode: Standard", "networkMode: Host"),
            ":18:16: error: workloads[0].networkMode: unknown variant `Host`, expected `Standard` or `HostNetwork`",
        ),
        (with("capacity: 1", "capacity: -1"), ":19:13: error: workloads[0].capacity: invalid value: integer `-1`, expected u32"),
        (with("[\"demo/pol\"]", "[\"pol\"]"), ":20:27: error: workloads[0].authorizationPolicies[0]: \"pol\" is not NAMESPACE/NAME"),
        (
            with("[\"demo/pol\"]", "[\"demo/another\"]"),
            ":20:27: error: workloads[0].authorizationPolicies[0]: no policy \"demo/another\" is in this file",
        ),
        (
            with("\"demo/wp.demo.svc.cluster.local\", hboneMtlsPort: 15008", "\"10.0.0.1\", hboneMtlsPort: 15008"),
            ":21:27: error: workloads[0].waypoint.destination: \"10.0.0.1\" is neither NETWORK/IP nor NAMESPACE/HOSTNAME",
        ),
        (
            with("\"demo/wp.demo.svc.cluster.local\", hboneMtlsPort: 15008", "\"demo/wp\", hboneMtlsPort: 0"),
            ":21:53: error: workloads[0].waypoint.hboneMtlsPort: port 0 is none",
        ),
        (
            with("\"demo/wp.demo.svc.cluster.local\", hboneMtlsPort: 15008", "\"demo/wp\""),
            ":21:3: error: workloads[0].waypoint: missing field `hboneMtlsPort`",
        ),
        (
            with("\"demo/wp.demo.svc.cluster.local\", hboneMtlsPort: 15008", "\"demo/wp\", hboneMtlsPort: 15008, port: 1"),
            ":21:60: error: workloads[0].waypoint.port: unknown field",
        ),
        (
            with("protocol: PROXY, port: 15088", "protocol: proxy"),
            ":23:33: error: workloads[0].applicationTunnel.protocol: unknown variant `proxy`, expected `NONE` or `PROXY`",
        ),
        (
            with("protocol: PROXY, port: 15088", "protocol: PROXY, port: 70000"),
            ":23:46: error: workloads[0].applicationTunnel.port: invalid value: integer `70000`, expected u16",
        ),
        (with("region: r", "country: r"), ":25:14: error: workloads[0].locality.country: unknown field"),
        (
            with("{region: r, zone: z, subzone: s}", "[r, z, s]"),
            ":25:3: error: workloads[0].locality: invalid type: list, expected a mapping",
        ),
        (
            with("\"demo/server.demo.svc.cluster.local\": {80: 8080}", "\"server\": {80: 8080}"),
            ":27:5: error: workloads[0].services.server: \"server\" is not NAMESPACE/HOSTNAME",
        ),
        (
            with("\"demo/server.demo.svc.cluster.local\": {80: 8080}", "\"demo/server.demo.svc.cluster.local\": {http: 8080}"),
            ":27:50: error: workloads[0].services[\"demo/server.demo.svc.cluster.local\"].http: \"http\" is not a port between 1 and 65535",
        ),
        (
            with("\"demo/server.demo.svc.cluster.local\": {80: 8080}", "\"demo/server.demo.svc.cluster.local\": {0: 8080}"),
            ":27:47: error: workloads[0].services[\"demo/server.demo.svc.cluster.local\"].0: \"0\" is not a port between 1 and 65535",
        ),
        (
            with("\"demo/server.demo.svc.cluster.local\": {80: 8080}", "\"demo/a\": {}\n    \"demo/A\": {}"),
            ":27:5: error: workloads[0].services[\"demo/a\"]: another key means the same service",
        ),
        (workload("") + &workload("")["workloads:\n".len()..], ":3:9: error: workloads[1].uid: another workload has this uid"),
        // Services.
        (with("  vips: [\"/10.96.0.10\"]\n", ""), ":29:3: error: services[0]: missing field `vips`"),
        (
            with("/10.96.0.10", "10.96.0.10"),
            ":32:10: error: services[0].vips[0]: \"10.96.0.10\" is neither NETWORK/IP nor NETWORK/IP/LENGTH; the network may be empty, as in \"/10.0.0.1\"",
        ),
        (
            with("/10.96.0.10", "/10.96.0.0/33"),
            ":32:10: error: services[0].vips[0]: \"/10.96.0.0/33\" is neither NETWORK/IP nor NETWORK/IP/LENGTH; the network may be empty, as in \"/10.0.0.1\"",
        ),
        (
            with("  ports: {80: 8080}", "  ports: {80: 65536}"),
            ":33:15: error: services[0].ports.80: invalid value: integer `65536`, expected u16",
        ),
        (with("  ports: {80: 8080}", "  ports: {-1: 80}"), ":33:15: error: services[0].ports.-1: \"-1\" is not a port between 1 and 65535"),
        (
            with("[Network, Zone]", "[Network, Rack]"),
            ":36:48: error: services[0].loadBalancer.routingPreferences[1]: unknown variant `Rack`, expected one of `Region`, `Zone`, `Subzone`, `Node`, `Cluster`, `Network`",
        ),
        (
            with("mode: Failover", "mode: Random"),
            ":36:61: error: services[0].loadBalancer.mode: unknown variant `Random`, expected one of `Standard`, `Strict`, `Failover`, `Passthrough`",
        ),
        (
            with("healthPolicy: OnlyHealthy", "healthPolicy: All"),
            ":36:85: error: services[0].loadBalancer.healthPolicy: unknown variant `All`, expected `OnlyHealthy` or `AllowAll`",
        ),
        (with("healthPolicy: OnlyHealthy", "health: OnlyHealthy"), ":36:71: error: services[0].loadBalancer.health: unknown field"),
        (
            with("ipFamilies: IPv4", "ipFamilies: ipv4"),
            ":37:15: error: services[0].ipFamilies: unknown variant `ipv4`, expected one of `Dual`, `IPv4`, `IPv6`",
        ),
        (
            with("visibility: Public", "visibility: Private"),
            ":38:15: error: services[0].visibility: unknown variant `Private`, expected `Public` or `Namespace`",
        ),
        (with("hostname: server.demo.svc.cluster.local", "hostname: ''"), ":31:13: error: services[0].hostname: must not be empty"),
        (
            service("") + &service("")["services:\n".len()..],
            ":3:40: error: services[1].hostname: another service of this namespace has this host name",
        ),
        // Policies.
        (
            with("scope: WorkloadSelector", "scope: Workload"),
            ":42:10: error: policies[0].scope: unknown variant `Workload`, expected one of `Global`, `Namespace`, `WorkloadSelector`",
        ),
        (with("action: Allow", "action: Audit"), ":43:11: error: policies[0].action: unknown variant `Audit`, expected `Allow` or `Deny`"),
        (with("dryRun: false", "dryRun: 'false'"), ":44:11: error: policies[0].dryRun: invalid type: string \"false\", expected a boolean"),
        (with("- name: pol\n ", "-"), ":40:3: error: policies[0]: missing field `name`"),
        (
            "policies: [{name: p, namespace: demo, scope: Global, action: Deny, rules: [[[[[!Exact x]]]]]}]\n".into(),
            ":1:78: error: policies[0].rules[0][0][0]: invalid type: list, expected a mapping",
        ),
        (
            "policies: [{name: p, namespace: demo, scope: Global, action: Deny, rules: [[{destinationPorts: [1]}]]}]\n".into(),
            ":1:77: error: policies[0].rules[0][0]: invalid type: mapping, expected a sequence",
        ),
        (
            "policies: [{name: p, namespace: istio-system, scope: Namespace, action: Deny, rules: []}]\n".into(),
            ":1:54: error: policies[0].scope: a policy of the root namespace holds for the whole mesh: its scope is Global",
        ),
        (
            with("notDestinationPorts: [9999]", "notDestinationPorts: [0]"),
            ":47:31: error: policies[0].rules[0][0][0].notDestinationPorts[0]: port 0 is none",
        ),
        (with("notDestinationPorts: [9999]", "notPorts: [9999]"), ":47:9: error: policies[0].rules[0][0][0].notPorts: unknown field"),
        (
            with("notDestinationPorts: [9999]", "sourceIps: [10.0.0.0/8, 10.0.0]"),
            ":47:33: error: policies[0].rules[0][0][0].sourceIps[1]: \"10.0.0\" is neither an IP address nor a CIDR",
        ),
        (
            with("notDestinationPorts: [9999]", "notDestinationIps: ['']"),
            ":47:29: error: policies[0].rules[0][0][0].notDestinationIps[0]: \"\" is neither an IP address nor a CIDR",
        ),
        (
            with("notDestinationPorts: [9999]", "notNamespaces: []"),
            ":47:9: error: policies[0].rules[0][0][0].notNamespaces: an empty list is no condition: leave the field out",
        ),
        (
            with("notDestinationPorts: [9999]", "namespaces: [!Prefix 'a*']"),
            ":47:30: error: policies[0].rules[0][0][0].namespaces[0]: a namespace has no '*' in its name",
        ),
        (
            with("notDestinationPorts: [9999]", "serviceAccounts: [{namespace: a}]"),
            ":47:27: error: policies[0].rules[0][0][0].serviceAccounts[0]: missing field `serviceAccount`",
        ),
        (
            with("notDestinationPorts: [9999]", "serviceAccounts: [{namespace: a, serviceAccount: ''}]"),
            ":47:58: error: policies[0].rules[0][0][0].serviceAccounts[0].serviceAccount: must not be empty",
        ),
        (
            with("!Exact \"cluster.local/ns/demo/sa/client-sa\"", "{Exact: x}"),
            ":46:22: error: policies[0].rules[0][0][0].principals[0]: a string match is written with a tag, not as a mapping: !Exact \"text\"",
        ),
        (
            with("!Exact \"cluster.local/ns/demo/sa/client-sa\"", "{Presence: ~}"),
            ":46:22: error: policies[0].rules[0][0][0].principals[0]: a string match is written with a tag, not as a mapping: !Presence",
        ),
        (
            with("!Exact \"cluster.local/ns/demo/sa/client-sa\"", "x"),
            ":46:22: error: policies[0].rules[0][0][0].principals[0]: a string match is written with a tag: !Exact \"text\", !Prefix \"text\", !Suffix \"text\" or !Presence",
        ),
        (
            with("!Exact \"cluster.local/ns/demo/sa/client-sa\"", "!Regex x"),
            ":46:29: error: unknown tag; known are !Exact, !Prefix, !Suffix, !Presence",
        ),
        (
            with("!Exact \"cluster.local/ns/demo/sa/client-sa\"", "!Exact ''"),
            ":46:29: error: policies[0].rules[0][0][0].principals[0]: an empty text matches nothing or everything",
        ),
        (
            with("!Exact \"cluster.local/ns/demo/sa/client-sa\"", "!Exact"),
            ":46:28: error: policies[0].rules[0][0][0].principals[0]: what a tag is put on must be text",
        ),
        (
            with("!Exact \"cluster.local/ns/demo/sa/client-sa\"", "!Exact [x]"),
            ":46:29: error: policies[0].rules[0][0][0].principals[0]: what a tag is put on must be text",
        ),
        (
            with("!Exact \"cluster.local/ns/demo/sa/client-sa\"", "!Presence x"),
            ":46:32: error: policies[0].rules[0][0][0].principals[0]: !Presence stands alone",
        ),
        (
            with("!Exact \"cluster.local/ns/demo/sa/client-sa\"", "!Exact spiffe://cluster.local/ns/demo/sa/a"),
            ":46:29: error: policies[0].rules[0][0][0].principals[0]: principals are written without spiffe://",
        ),
        (with("rules:\n", "rules:\n  - [[{}]]\n"), ":46:7: error: policies[0].rules[0][0][0]: no field is set: this would match nothing"),
    ];
    for (text, want) in rows {
        assert_eq!(refused(&text), [format!("local.yaml{want}")], "{text}");
    }
}
