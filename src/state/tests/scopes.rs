//! What routes and policies hold for, and what is not even kept.

use super::*;

/// A large mesh of `n` namespaces, each with a service, a pod, ten routes and ten policies.
fn neighbours(n: u8) -> Vec<Resource> {
    let mut all = Vec::new();
    for i in 0..n {
        let ns: Name = format!("ns{i}").into();
        let other = ResourceName::new(&ns, "waypoint");
        let service = Service { vips: vec![IpAddr::from([10, 3, 0, i])], ..service(&ns, "a", i) };
        let workload = Workload { addresses: vec![IpAddr::from([10, 4, 0, i])], ..pod(&ns, "a", i) };
        let own = service.key.clone();
        all.extend([
            Resource::from(namespace(&ns, WaypointBinding::To(other.clone()))),
            Resource::from(Waypoint { name: other.clone(), ..waypoint() }),
            Resource::from(service),
            Resource::from(workload),
        ]);
        for j in 0..10 {
            let parent = if j % 2 == 0 { on_service(&own) } else { Parent::Gateway(other.clone()) };
            all.push(Resource::from(route(&ns, &format!("r{j}"), parent, &[("/", &own), ("/x", &own)])));
            let target = match j % 4 {
                0 => refs(TargetRef::Service(own.clone())),
                1 => refs(TargetRef::Gateway(other.clone())),
                2 => PolicyTarget::Namespace,
                _ => PolicyTarget::Selector(labels(&[("app", "a")])),
            };
            all.push(Resource::from(deny(&ns, &format!("p{j}"), target, 5)));
        }
    }
    all
}

#[test]
fn what_belongs_to_other_scopes_is_not_compiled() {
    let a = key("app", "a");
    let mut mesh = app();
    mesh.push(Resource::from(route("app", "r", on_service(&a), &[("/", &a), ("/x", &a)])));
    mesh.push(Resource::from(deny("app", "p", refs(TargetRef::Service(a.clone())), 3)));
    let alone = store(mesh.clone()).handle().load().compiled;
    assert_eq!(alone, CompiledRules { destinations: 1, route_matches: 2, policy_rules: 3, upstreams: 1 });
    mesh.extend(neighbours(100));
    assert_eq!(store(mesh).handle().load().compiled, alone);
}

#[test]
fn what_can_never_be_in_scope_is_not_even_kept() {
    let mut store = store(app());
    store.apply(neighbours(50).into_iter().map(Change::Upsert));
    let mesh = store.mesh();
    assert_eq!(mesh.waypoints.len(), 51, "bindings are looked up");
    let of_gateways = mesh.routes.values().filter(|r| r.parents.iter().any(|p| matches!(p, Parent::Gateway(_)))).count();
    assert_eq!(of_gateways, 0, "routes of other gateways");
    let never =
        |p: &&Arc<AuthorizationPolicy>| !matches!(&p.target, PolicyTarget::Refs(refs) if matches!(refs[..], [TargetRef::Service(_)]));
    assert_eq!(mesh.policies.values().filter(never).count(), 0, "policies for workloads and other gateways");
}

#[test]
fn a_resource_that_leaves_the_scope_is_forgotten() {
    let mut store = store(app());
    let all = PolicyTarget::Refs(vec![TargetRef::Gateway(gateway())]);
    let snapshot = upsert(&mut store, Resource::from(deny("app", "p", all, 1)));
    assert!(is_denied(&served(&snapshot, vip(1)).unwrap()));
    let snapshot = upsert(&mut store, Resource::from(deny("app", "p", PolicyTarget::Namespace, 1)));
    assert!(!is_denied(&served(&snapshot, vip(1)).unwrap()));
    assert!(store.mesh().policies.is_empty());
}

#[test]
fn a_service_that_is_unbound_leaves_nothing_behind() {
    let a = key("app", "a");
    let mut store = store(app());
    upsert(&mut store, Resource::from(route("app", "r", on_service(&a), &[("/", &a)])));
    upsert(&mut store, Resource::from(deny("app", "p", refs(TargetRef::Service(a)), 3)));
    let unbound = Service { waypoint: WaypointBinding::None, ..service("app", "a", 1) };
    let snapshot = upsert(&mut store, Resource::from(unbound));
    assert_eq!(snapshot.compiled, CompiledRules::default());
    store.apply([Change::Remove(ResourceKey::Waypoint(gateway()))]);
    assert!(!store.handle().load().bound);
}

#[test]
fn the_narrowest_scope_that_has_routes_wins() {
    let (a, b) = (key("app", "a"), key("app", "b"));
    let account = Parent::ServiceAccount(ResourceName::new("app", "a"));
    let on_port = |port| Parent::Service { service: a.clone(), port: Some(port) };
    let mut store = store(app());
    let rule = |snapshot: &WaypointSnapshot| {
        let table = served(snapshot, vip(1)).unwrap().routes.clone()?;
        let names: Vec<String> = table.iter().map(|entry| entry.payload.name.to_string()).collect();
        Some(names.join(" "))
    };
    assert_eq!(rule(&store.handle().load()), None);
    for (name, parent, want) in [
        ("gateway", Parent::Gateway(gateway()), "app/gateway.0"),
        ("account", account, "app/account.0"),
        ("other-port", on_port(81), "app/account.0"),
        ("other-service", on_service(&b), "app/account.0"),
        ("service", on_service(&a), "app/service.0"),
    ] {
        let snapshot = upsert(&mut store, Resource::from(route("app", name, parent, &[("/", &a)])));
        assert_eq!(rule(&snapshot).as_deref(), Some(want), "with {name}");
    }
    store.apply([Change::Remove(ResourceKey::Route(ResourceName::new("app", "service")))]);
    assert_eq!(rule(&store.handle().load()).as_deref(), Some("app/account.0"));
    // Somebody else behind the service: whom a request reaches is open, so the account's routes do not hold.
    let stranger = Workload { identity: Identity::new("cluster.local", "app", "stranger").unwrap(), ..pod("app", "a", 7) };
    let snapshot = upsert(&mut store, Resource::from(stranger));
    assert_eq!(rule(&snapshot).as_deref(), Some("app/gateway.0"));
}

#[test]
fn policies_hold_where_they_are_targeted_and_nowhere_else() {
    let (a, b) = (key("app", "a"), key("app", "b"));
    let class = || refs(TargetRef::GatewayClass("istio-waypoint".into()));
    let here = || refs(TargetRef::Gateway(gateway()));
    let rows = [
        ("the gateway", "app", here(), true),
        ("the gateway, from another namespace", "other", here(), false),
        ("another gateway", "app", refs(TargetRef::Gateway(ResourceName::new("app", "x"))), false),
        ("the service", "app", refs(TargetRef::Service(a.clone())), true),
        ("the service, from another namespace", "other", refs(TargetRef::Service(a.clone())), false),
        ("another service", "app", refs(TargetRef::Service(b)), false),
        ("the class, from the root namespace", ROOT, class(), true),
        ("the class, from elsewhere", "app", class(), false),
        ("another class", ROOT, refs(TargetRef::GatewayClass("x".into())), false),
        ("workloads by selector", "app", PolicyTarget::Selector(labels(&[("app", "a")])), false),
        ("the namespace's workloads", "app", PolicyTarget::Namespace, false),
        ("all workloads", ROOT, PolicyTarget::Namespace, false),
    ];
    for (what, namespace, target, want) in rows {
        let mut mesh = app();
        mesh.push(Resource::from(deny(namespace, "p", target, 1)));
        let snapshot = store(mesh).handle().load();
        assert_eq!(is_denied(&served(&snapshot, vip(1)).unwrap()), want, "{what}");
    }
}

#[test]
fn a_policy_that_was_never_valid_denies_all_that_it_may_have_meant() {
    for (namespace, target, want) in [
        ("app", PolicyTarget::Unknown, true),
        (ROOT, PolicyTarget::Unknown, true),
        ("", PolicyTarget::Unknown, true),
        ("other", PolicyTarget::Unknown, false),
        ("app", refs(TargetRef::Service(key("app", "a"))), true),
        ("app", refs(TargetRef::Service(key("app", "b"))), false),
        ("app", refs(TargetRef::Gateway(gateway())), true),
    ] {
        let what = format!("{namespace:?} {target:?}");
        let broken = AuthorizationPolicy { action: Action::Allow, invalid: Some("unreadable".into()), ..deny(namespace, "p", target, 0) };
        let mut mesh = app();
        mesh.push(Resource::from(broken));
        let snapshot = store(mesh).handle().load();
        assert_eq!(is_denied(&served(&snapshot, vip(1)).unwrap()), want, "{what}");
    }
}
