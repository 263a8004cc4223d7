//! What stays from one snapshot to the next.

use super::*;

#[test]
fn unchanged_scopes_are_taken_over_as_they_are() {
    let (a, b) = (key("app", "a"), key("app", "b"));
    let mut mesh = app();
    mesh.extend([
        Resource::from(service("app", "b", 2)),
        Resource::from(route("app", "ra", on_service(&a), &[("/", &a)])),
        Resource::from(route("app", "rb", on_service(&b), &[("/", &b)])),
        Resource::from(deny("app", "pa", refs(TargetRef::Service(a.clone())), 1)),
        Resource::from(deny("app", "pb", refs(TargetRef::Service(b.clone())), 1)),
    ]);
    let mut store = store(mesh);
    let before = store.handle().load();
    store.apply([
        Change::Upsert(Resource::from(route("app", "rb", on_service(&b), &[("/new", &b)]))),
        Change::Upsert(Resource::from(deny("app", "pb", refs(TargetRef::Service(b.clone())), 2))),
        // Pods come and go without a route being touched.
        Change::Upsert(Resource::from(pod("app", "a", 9))),
    ]);
    let after = store.handle().load();
    let both = |address| (served(&before, address).unwrap(), served(&after, address).unwrap());
    let (old, new) = both(vip(1));
    assert!(Arc::ptr_eq(old.routes.as_ref().unwrap(), new.routes.as_ref().unwrap()));
    assert!(Arc::ptr_eq(&old.http_rules, &new.http_rules) && Arc::ptr_eq(&old.tcp_rules, &new.tcp_rules));
    assert!(Arc::ptr_eq(&old.upstream, &new.upstream));
    assert_eq!(endpoint_addresses(&new).len(), 2);
    let (old, new) = both(vip(2));
    assert!(!Arc::ptr_eq(old.routes.as_ref().unwrap(), new.routes.as_ref().unwrap()));
    assert!(!Arc::ptr_eq(&old.http_rules, &new.http_rules));
}

#[test]
fn a_route_follows_its_backend_when_that_appears_and_goes() {
    let (a, b) = (key("app", "a"), key("other", "b"));
    let mut mesh = app();
    mesh.push(Resource::from(route("app", "r", on_service(&a), &[("/", &b)])));
    let mut store = store(mesh);
    let leads = |snapshot: &WaypointSnapshot| {
        let destination = served(snapshot, vip(1)).unwrap();
        let plan = destination.routes.as_ref().unwrap().iter().next().unwrap().payload.clone();
        match &plan.backends {
            Backends::Weighted(backends, _) => backends[0].upstream.as_ref().map(|u| u.name.to_string()),
            Backends::Destination => panic!("the rule has a backend"),
        }
    };
    assert_eq!(leads(&store.handle().load()), None);
    // In another namespace, and bound to nothing: still a backend.
    let snapshot = upsert(&mut store, Resource::from(service("other", "b", 2)));
    assert_eq!(leads(&snapshot).as_deref(), Some("outbound|80||b.other.svc.cluster.local"));
    assert!(served(&snapshot, vip(2)).is_none());
    assert_eq!(snapshot.compiled.upstreams, 2);
    store.apply([Change::Remove(ResourceKey::Service(b))]);
    let snapshot = store.handle().load();
    assert_eq!((leads(&snapshot), snapshot.compiled.upstreams), (None, 1));
}

#[test]
fn the_load_of_an_endpoint_survives_recompiles() {
    let mut store = store(app());
    let endpoint = served(&store.handle().load(), vip(1)).unwrap().upstream.endpoints().ready[0].clone();
    let request = endpoint.start();
    let snapshot = upsert(&mut store, Resource::from(pod("app", "a", 2)));
    let loads = |snapshot: &WaypointSnapshot| {
        let endpoints = served(snapshot, vip(1)).unwrap().upstream.endpoints();
        let mut loads: Vec<_> = endpoints.ready.iter().map(|e| (e.address.to_string(), e.in_flight())).collect();
        loads.sort();
        loads
    };
    assert_eq!(loads(&snapshot), [("10.2.0.1:8080".to_owned(), 1), ("10.2.0.2:8080".to_owned(), 0)]);
    drop(request);
    assert_eq!(loads(&snapshot)[0].1, 0);
    // Another identity at the same address is another endpoint.
    let _request = endpoint.start();
    let usurper = Workload { identity: Identity::new("cluster.local", "app", "usurper").unwrap(), ..pod("app", "a", 1) };
    let snapshot = upsert(&mut store, Resource::from(usurper));
    assert_eq!(loads(&snapshot)[0], ("10.2.0.1:8080".to_owned(), 0));
}

#[tokio::test]
async fn each_batch_is_one_version_and_readers_are_told() {
    let mut store = Store::new(WaypointCompiler::new(gateway(), ROOT));
    let handle = store.handle();
    let mut published = handle.published();
    assert_eq!((handle.load().version, handle.load().bound, published.version()), (0, false, 0));
    assert_eq!(store.apply(app().into_iter().map(Change::Upsert)), 1);
    assert!(published.changed().await);
    assert_eq!((handle.load().version, handle.load().bound, published.version()), (1, true, 1));
    assert_eq!(store.apply([]), 1);
    assert_eq!(store.apply([Change::Remove(ResourceKey::Waypoint(ResourceName::new("no", "such")))]), 2);
    assert!(published.changed().await);
    let old = handle.load();
    store.apply([Change::Remove(ResourceKey::Service(key("app", "a")))]);
    assert!(served(&old, vip(1)).is_some(), "who has taken a snapshot keeps it whole");
    assert!(served(&handle.load(), vip(1)).is_none());
    drop(store);
    assert!(published.changed().await, "the last version was not seen yet");
    assert!(!published.changed().await);
}

#[test]
fn a_ztunnel_keeps_neither_routes_nor_policies_of_waypoints() {
    let a = key("app", "a");
    let local: Name = pod("app", "a", 1).uid;
    let mut store = Store::new(NodeCompiler::new(Own::Workloads([local.clone()].into()), ROOT));
    let mut mesh = app();
    mesh.push(Resource::from(route("app", "r", on_service(&a), &[("/", &a)])));
    mesh.push(Resource::from(deny("app", "refs", refs(TargetRef::Service(a)), 1)));
    mesh.push(Resource::from(deny("app", "all", PolicyTarget::Namespace, 1)));
    store.apply(mesh.into_iter().map(Change::Upsert));
    assert_eq!((store.mesh().routes.len(), store.mesh().policies.len()), (0, 1));
    assert_eq!(store.handle().load().local(&local).unwrap().rules.len(), 1);
}

#[test]
fn who_reads_a_replaced_snapshot_does_not_free_it() {
    let mut store = Store::new(NodeCompiler::new(Own::Node(None), "istio-system"));
    let read = store.handle().load();
    store.apply([Change::Upsert(Resource::from(pod("app", "a", 1)))]);
    assert!(store.has_retired() && store.sweep(), "it is being read");
    let weak = Arc::downgrade(&read);
    drop(read);
    assert!(weak.upgrade().is_some());
    assert!(!store.sweep() && weak.upgrade().is_none());
    store.apply([Change::Upsert(Resource::from(pod("app", "b", 2)))]);
    assert!(!store.has_retired(), "nobody reads it");
}

#[test]
fn what_an_address_may_have_become_is_told_from_one_version_to_the_next() {
    let mut store = Store::new(NodeCompiler::new(Own::Node(None), ROOT));
    let mut change = |resources: Vec<Resource>| {
        store.apply(resources.into_iter().map(Change::Upsert));
        store.handle().load()
    };
    let (one, two) = (pod("app", "a", 1), pod("app", "b", 2));
    let at = |pod: &Workload| pod.addresses[0];
    let first = change(vec![Resource::from(one.clone())]);
    assert!(first.may_have_moved(at(&one), 0) && !first.may_have_moved(at(&two), 0) && !first.may_have_moved(at(&one), 1));
    let second = change(vec![Resource::from(two.clone())]);
    assert!(!second.may_have_moved(at(&one), 1) && second.may_have_moved(at(&two), 1));
    assert!(second.may_have_moved(at(&one), 0), "nobody knows over two versions");
}
