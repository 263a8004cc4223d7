use super::*;
use crate::{
    dns::fixture::{canonical, kube, mesh, pod, port, private, service},
    model::{Health, IpFamilies, NetworkAddress, Resource, Service},
};

/// Asks as a workload of namespace `demo` with the usual search domains.
fn ask(snapshot: &NodeSnapshot, cluster: &Cluster, name: &str, family: Family) -> String {
    ask_with(snapshot, cluster, &cluster.search("demo"), name, family)
}

/// `forward`, `empty`, or the sorted addresses, with the alias in front.
fn ask_with(snapshot: &NodeSnapshot, cluster: &Cluster, search: &[Hostname], name: &str, family: Family) -> String {
    match lookup(snapshot, Client { namespace: "demo", search, cluster }, name, family) {
        Outcome::Forward => "forward".into(),
        Outcome::Empty => "empty".into(),
        Outcome::Answer { mut addresses, alias } => {
            addresses.sort();
            let alias = alias.map(|alias| format!("{alias} -> ")).unwrap_or_default();
            alias + &addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
        }
    }
}

fn services(all: impl IntoIterator<Item = Service>) -> impl Iterator<Item = Resource> {
    all.into_iter().map(Resource::from)
}

fn hosts(names: &[&str]) -> Vec<Hostname> {
    names.iter().map(|name| Hostname::new(name)).collect()
}

#[test]
fn candidates_are_the_name_what_kubernetes_makes_of_it_and_the_same_without_search_domains() {
    let cluster = Cluster::new("Cluster.Local.");
    let search = [&cluster.search("demo")[..], &hosts(&["corp.example"])].concat();
    let client = Client { namespace: "demo", search: &search, cluster: &cluster };
    let rows: [(&str, &[&str]); 13] = [
        ("web", &["web", "web.demo.svc.cluster.local"]),
        ("web.demo", &["web.demo", "web.demo.svc.cluster.local", "web.demo.demo.svc.cluster.local"]),
        ("web.demo.svc", &["web.demo.svc", "web.demo.svc.cluster.local", "web.demo.svc.svc.cluster.local"]),
        ("web-0.web.demo", &["web-0.web.demo", "web-0.web.demo.svc.cluster.local"]),
        ("web-0.web.demo.svc", &["web-0.web.demo.svc", "web-0.web.demo.svc.cluster.local"]),
        ("a.b.c.d", &["a.b.c.d"]),
        ("a.b.c.d.svc", &["a.b.c.d.svc"]),
        (
            "web.demo.svc.cluster.local",
            &[
                "web.demo.svc.cluster.local",
                "web < web",
                "web.demo < web.demo",
                "web.demo.demo.svc.cluster.local < web.demo",
                "web.demo.svc < web.demo.svc",
                "web.demo.svc.svc.cluster.local < web.demo.svc",
            ],
        ),
        (
            "svc.cluster.local",
            &["svc.cluster.local", "svc.cluster.local.svc.cluster.local", "svc < svc", "svc.demo.svc.cluster.local < svc"],
        ),
        ("cluster.local", &["cluster.local", "cluster.local.svc.cluster.local", "cluster.local.demo.svc.cluster.local"]),
        (
            "www.example.com.corp.example",
            &["www.example.com.corp.example", "www.example.com < www.example.com", "www.example.com.svc.cluster.local < www.example.com"],
        ),
        ("www.notcorp.example", &["www.notcorp.example", "www.notcorp.example.svc.cluster.local"]),
        ("corp.example", &["corp.example", "corp.example.svc.cluster.local", "corp.example.demo.svc.cluster.local"]),
    ];
    for (name, want) in rows {
        let got: Vec<String> = candidates(client, name)
            .iter()
            .map(|c| c.name.to_string() + &c.stripped.as_ref().map(|stripped| format!(" < {stripped}")).unwrap_or_default())
            .collect();
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn wildcards_go_down_to_the_last_label() {
    let names = |name| wildcards(name).map(|w| w.to_string()).collect::<Vec<_>>();
    assert_eq!(names("a.b.c.d"), ["*.b.c.d", "*.c.d", "*.d"]);
    assert!(names("a").is_empty());
}

#[test]
fn names_are_found_as_a_pods_resolver_would_complete_them() {
    let (_store, handle) = mesh(services([
        kube("web", "demo", &["10.1.0.1"]),
        kube("web", "other", &["10.1.0.2"]),
        kube("dual", "demo", &["10.1.0.3", "fd00::3"]),
        service("demo", "api.example.com", &["10.1.0.4"]),
        service("demo", "*.wild.example.com", &["10.1.0.5"]),
        service("demo", "*.example.com", &["10.1.0.6"]),
        service("demo", "deep.wild.example.com", &["10.1.0.7"]),
        service("demo", "*.single", &["10.1.0.8"]),
    ]));
    let snapshot = handle.load();
    let cluster = Cluster::new("cluster.local");
    let rows = [
        ("web", Family::V4, "10.1.0.1"),
        ("WEB", Family::V4, "10.1.0.1"),
        ("web.", Family::V4, "10.1.0.1"),
        ("web.demo", Family::V4, "10.1.0.1"),
        ("web.other", Family::V4, "10.1.0.2"),
        ("web.other.svc", Family::V4, "10.1.0.2"),
        ("web.other.svc.cluster.local", Family::V4, "10.1.0.2"),
        ("web.demo.svc.cluster.local", Family::V4, "10.1.0.1"),
        // The wrong family is no reason to ask elsewhere.
        ("web", Family::V6, "empty"),
        ("dual", Family::V4, "10.1.0.3"),
        ("dual", Family::V6, "fd00::3"),
        // What a resolver sends that tries its search list first.
        ("web.other.demo.svc.cluster.local", Family::V4, "web.other -> 10.1.0.2"),
        ("web.other.svc.cluster.local.demo.svc.cluster.local", Family::V4, "web.other.svc.cluster.local -> 10.1.0.2"),
        ("api.example.com.demo.svc.cluster.local", Family::V4, "api.example.com -> 10.1.0.4"),
        ("api.example.com.svc.cluster.local", Family::V4, "api.example.com -> 10.1.0.4"),
        ("api.example.com.cluster.local", Family::V4, "api.example.com -> 10.1.0.4"),
        ("api.example.com.cluster.local", Family::V6, "empty"),
        // Wildcards: the most specific wins, and there is no alias.
        ("api.example.com", Family::V4, "10.1.0.4"),
        ("www.example.com", Family::V4, "10.1.0.6"),
        ("a.b.example.com", Family::V4, "10.1.0.6"),
        ("a.wild.example.com", Family::V4, "10.1.0.5"),
        ("a.b.wild.example.com", Family::V4, "10.1.0.5"),
        ("deep.wild.example.com", Family::V4, "10.1.0.7"),
        ("wild.example.com", Family::V4, "10.1.0.6"),
        ("www.example.com.demo.svc.cluster.local", Family::V4, "10.1.0.6"),
        ("anything.single", Family::V4, "10.1.0.8"),
        ("example.com", Family::V4, "forward"),
        ("single", Family::V4, "forward"),
        // Nobody's.
        ("missing", Family::V4, "forward"),
        ("web.missing", Family::V4, "forward"),
        ("web.demo.svc.other.domain", Family::V4, "forward"),
        ("demo.svc.cluster.local", Family::V4, "forward"),
        ("cluster.local", Family::V4, "forward"),
        ("", Family::V4, "forward"),
        (".", Family::V4, "forward"),
        ("..", Family::V4, "forward"),
        (".web", Family::V4, "forward"),
    ];
    for (name, family, want) in rows {
        assert_eq!(ask(&snapshot, &cluster, name, family), want, "{name} {family:?}");
    }
}

#[test]
fn search_domains_are_the_clients_own() {
    let (_store, handle) = mesh(services([service("demo", "api.example.com", &["10.1.0.4"]), kube("web", "demo", &["10.1.0.1"])]));
    let snapshot = handle.load();
    let cluster = Cluster::new("cluster.local");
    let rows = [
        (vec![], "api.example.com.corp.example", "forward"),
        (vec!["corp.example"], "api.example.com.corp.example", "api.example.com -> 10.1.0.4"),
        (vec!["other.example", "corp.example"], "web.corp.example", "web -> 10.1.0.1"),
        (vec!["corp.example"], "api.example.com.demo.svc.cluster.local", "forward"),
        (vec!["com"], "api.example.com", "10.1.0.4"),
    ];
    for (search, name, want) in rows {
        assert_eq!(ask_with(&snapshot, &cluster, &hosts(&search), name, Family::V4), want, "{name} with {search:?}");
    }
}

#[test]
fn a_service_is_answered_for_if_it_has_virtual_addresses_or_is_of_the_cluster() {
    let headless = kube("headless", "demo", &[]);
    let elsewhere = {
        let mut service = kube("far", "demo", &[]);
        service.l4.elsewhere = vec![NetworkAddress { network: Some("far".into()), address: "10.9.0.1".parse().unwrap() }];
        service
    };
    let portless = Service { ports: Vec::new(), ..kube("portless", "demo", &[]) };
    let external = service("demo", "vipless.example.com", &[]);
    let pods =
        [pod("demo", "web-0", &["10.0.0.1"], &[&headless, &portless, &external]), pod("demo", "far-0", &["10.0.0.9"], &[&elsewhere])];
    let all = services([headless, elsewhere, portless, external, service("demo", "svc.cluster.local", &[])]);
    let (_store, handle) = mesh(all.chain(pods.map(Resource::from)));
    let snapshot = handle.load();
    let cluster = Cluster::new("cluster.local");
    let rows = [
        ("headless", "10.0.0.1"),
        // Its addresses are on another network: none is the client's, and no endpoint's is told.
        ("far", "empty"),
        ("portless", "forward"),
        ("vipless.example.com", "forward"),
        ("svc.cluster.local", "forward"),
    ];
    for (name, want) in rows {
        assert_eq!(ask(&snapshot, &cluster, name, Family::V4), want, "{name}");
    }
    assert_eq!(ask(&snapshot, &Cluster::new("other.domain"), "headless.demo.svc.cluster.local", Family::V4), "forward");
}

#[test]
fn of_services_with_one_name_the_clients_own_comes_first_then_canonical_then_preferred() {
    let host = "shared.example.com";
    let own = || service("demo", host, &["10.1.0.1"]);
    let canon = || canonical(service("canon", host, &["10.1.0.2"]));
    let preferred = || service("preferred", host, &["10.1.0.3"]);
    let first = || service("a", host, &["10.1.0.4"]);
    let vipless = |namespace| service(namespace, host, &[]);
    let rows: [(Vec<Service>, &str); 10] = [
        (vec![own(), canon(), preferred(), first()], "10.1.0.1"),
        (vec![canon(), preferred(), first()], "10.1.0.2"),
        (vec![preferred(), first()], "10.1.0.3"),
        (vec![first(), service("b", host, &["10.1.0.5"])], "10.1.0.4"),
        (vec![private(own()), first()], "10.1.0.1"),
        (vec![private(canon()), first()], "10.1.0.4"),
        (vec![private(preferred()), first()], "10.1.0.4"),
        (vec![private(first())], "forward"),
        // What we do not answer for does not stand before what we do.
        (vec![vipless("demo"), canonical(vipless("canon")), first()], "10.1.0.4"),
        (vec![vipless("demo")], "forward"),
    ];
    let cluster = Cluster { preferred_namespace: Some("preferred".into()), ..Cluster::new("cluster.local") };
    for (at, (declared, want)) in rows.into_iter().enumerate() {
        let (_store, handle) = mesh(services(declared));
        assert_eq!(ask(&handle.load(), &cluster, host, Family::V4), want, "row {at}");
    }
}

#[test]
fn a_headless_service_has_an_address_of_each_ready_workload() {
    let web = Service { ports: vec![port(80), port(81)], ..kube("web", "demo", &[]) };
    let mut only_v4 = kube("only-v4", "demo", &[]);
    only_v4.l4.ip_families = IpFamilies::Ipv4;
    let deserted = kube("deserted", "demo", &[]);
    let behind = [&web, &only_v4];
    let mut sick = pod("demo", "web-3", &["10.0.0.4"], &behind);
    sick.health = Health::Unhealthy;
    let mut far = pod("demo", "web-4", &["10.0.0.5"], &behind);
    far.l4.network = Some("far".into());
    let mut nameless = pod("demo", "web-5", &[], &behind);
    nameless.l4.hostname = Some(Hostname::new("db.example.com"));
    let pods = [
        pod("demo", "web-0", &["10.0.0.1", "fd00::1"], &behind),
        pod("demo", "web-1", &["fd00::2", "10.0.0.2", "10.0.0.22"], &behind),
        pod("demo", "web-2", &["10.0.0.3"], &behind),
        sick,
        far,
        nameless,
    ];
    let (_store, handle) = mesh(services([web, only_v4, deserted]).chain(pods.map(Resource::from)));
    let snapshot = handle.load();
    let cluster = Cluster::new("cluster.local");
    let rows = [
        ("web", Family::V4, "10.0.0.1 10.0.0.2 10.0.0.3"),
        ("web", Family::V6, "fd00::1 fd00::2"),
        ("only-v4", Family::V4, "10.0.0.1 10.0.0.2 10.0.0.3"),
        ("only-v4", Family::V6, "empty"),
        ("deserted", Family::V4, "empty"),
        ("web.demo.svc.cluster.local.svc.cluster.local", Family::V6, "web.demo.svc.cluster.local -> fd00::1 fd00::2"),
        // Each of its workloads has a name of its own, in every form.
        ("web-0.web", Family::V4, "10.0.0.1"),
        ("WEB-0.web", Family::V6, "fd00::1"),
        ("web-0.web.demo", Family::V4, "10.0.0.1"),
        ("web-1.web.demo.svc", Family::V4, "10.0.0.2"),
        ("web-2.web.demo.svc.cluster.local", Family::V4, "10.0.0.3"),
        ("web-2.web.demo.svc.cluster.local", Family::V6, "empty"),
        ("web-2.web.demo.demo.svc.cluster.local", Family::V4, "web-2.web.demo -> 10.0.0.3"),
        ("web-3.web", Family::V4, "forward"),
        ("web-9.web", Family::V4, "forward"),
        ("web-0.missing", Family::V4, "forward"),
        ("web-0.deserted", Family::V4, "forward"),
        ("web-0", Family::V4, "forward"),
        ("a.web-0.web", Family::V4, "forward"),
    ];
    for (name, family, want) in rows {
        assert_eq!(ask(&snapshot, &cluster, name, family), want, "{name} {family:?}");
    }
    let without = Cluster { ipv6: false, ..cluster };
    assert_eq!(ask(&snapshot, &without, "web", Family::V6), "empty");
    assert_eq!(ask(&snapshot, &without, "web", Family::V4), "10.0.0.1 10.0.0.2 10.0.0.3");
}

#[test]
fn without_ipv6_no_ipv6_address_is_told() {
    let (_store, handle) = mesh(services([kube("web", "demo", &["10.1.0.1", "fd00::1", "::ffff:10.1.0.2"])]));
    let snapshot = handle.load();
    let with = Cluster::new("cluster.local");
    let without = Cluster { ipv6: false, ..with.clone() };
    assert_eq!(ask(&snapshot, &with, "web", Family::V6), "fd00::1");
    assert_eq!(ask(&snapshot, &without, "web", Family::V6), "empty");
    assert_eq!(ask(&snapshot, &without, "web", Family::V4), "10.1.0.1 10.1.0.2");
}

#[test]
fn a_workload_of_a_service_with_virtual_addresses_has_no_name_of_its_own() {
    let web = kube("web", "demo", &["10.1.0.1"]);
    let wild = service("demo", "*.demo.svc.cluster.local", &["10.1.0.2"]);
    let headless = kube("headless", "demo", &[]);
    let pods = [pod("demo", "web-0", &["10.0.0.1"], &[&web, &headless])];
    let (_store, handle) = mesh(services([web, wild, headless]).chain(pods.map(Resource::from)));
    let snapshot = handle.load();
    let cluster = Cluster::new("cluster.local");
    assert_eq!(ask(&snapshot, &cluster, "web-0.web.demo.svc.cluster.local", Family::V4), "10.1.0.2", "by the wildcard");
    assert_eq!(
        ask(&snapshot, &cluster, "web-0.headless.demo.svc.cluster.local", Family::V4),
        "10.0.0.1",
        "more specific than the wildcard"
    );
}

#[test]
fn the_order_of_addresses_is_random() {
    let vips: Vec<String> = (1..=8).map(|n| format!("10.1.0.{n}")).collect();
    let vips: Vec<&str> = vips.iter().map(String::as_str).collect();
    let (_store, handle) = mesh(services([kube("web", "demo", &vips)]));
    let snapshot = handle.load();
    let cluster = Cluster::new("cluster.local");
    let client = Client { namespace: "demo", search: &[], cluster: &cluster };
    let orders: HashSet<_> = (0..50).map(|_| format!("{:?}", lookup(&snapshot, client, "web", Family::V4))).collect();
    assert!(orders.len() > 10, "{} orders", orders.len());
}
