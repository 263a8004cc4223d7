//! What a resource is as a whole: its form and its name.

use super::*;

fn address(name: &str, value: &[u8]) -> Result<Resource, String> {
    decoder().address(name, Bytes::copy_from_slice(value)).map_err(|rejected| rejected.reason)
}

#[test]
fn what_is_neither_a_workload_nor_a_service() {
    assert_eq!(address("x", b"").unwrap_err(), "neither a workload nor a service");
    // A kind that may come to be.
    assert_eq!(address("x", &[0x1a, 0]).unwrap_err(), "neither a workload nor a service");
    for broken in [&[0x0a, 5][..], &[0x0a], &[0x08, 1], &[0xff; 12], &[0x0a, 3, 0x0a, 1, 0xff]] {
        let reason = address("x", broken).unwrap_err();
        assert!(reason.starts_with("not an istio.workload.Address: "), "{reason}");
    }
}

#[test]
fn the_name_is_the_key() {
    let bytes = bytes_of(Type::Workload(workload()));
    for name in ["u", ""] {
        assert!(address(name, &bytes).is_ok(), "{name}");
    }
    assert_eq!(address("v", &bytes).unwrap_err(), "the resource is named \"v\", but what is in it is \"u\"");
    let bytes = bytes_of(Type::Service(service()));
    for name in ["demo/s.demo.svc.cluster.local", "demo/S.demo.svc.cluster.local.", ""] {
        assert!(address(name, &bytes).is_ok(), "{name}");
    }
    let key = "demo/s.demo.svc.cluster.local";
    for name in ["s.demo.svc.cluster.local", "other/s.demo.svc.cluster.local", "demo/s", "demo/s.demo.svc.cluster.local/x", "/"] {
        let want = format!("the resource is named {name:?}, but what is in it is {key:?}");
        assert_eq!(address(name, &bytes).unwrap_err(), want);
    }
}

#[test]
fn written_otherwise_a_host_name_is_the_same() {
    let mut message = service();
    message.hostname = "S.Demo.svc.cluster.local.".into();
    let bytes = bytes_of(Type::Service(message));
    for name in ["demo/S.Demo.svc.cluster.local.", "demo/s.demo.svc.cluster.local"] {
        let Ok(Resource::Service(service)) = address(name, &bytes) else { panic!("{name}") };
        assert_eq!(service.key, key("demo", "s.demo.svc.cluster.local"));
    }
}

#[test]
fn reasons_do_not_grow_with_what_is_sent() {
    let long = "ä".repeat(100_000);
    let reason = address(&long, &bytes_of(Type::Workload(workload()))).unwrap_err();
    assert!(reason.len() < 1000 && reason.ends_with("ä\"..., but what is in it is \"u\""), "{reason}");
    for reason in [
        refused_workload(|w| w.namespace.clone_from(&long)),
        refused_workload(|w| drop(w.services.insert(long.clone(), proto::PortList::default()))),
        refused_workload(|w| w.authorization_policies = vec![long.clone()]),
        refused_service(|s| s.hostname = format!("/{long}")),
        refused_service(|s| s.hostname = ".".repeat(100_000)),
    ] {
        assert!(reason.len() < 1000, "{reason}");
    }
}
