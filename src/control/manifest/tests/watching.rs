//! Files and directories: what is read, and what a change of them is.

use super::*;
use crate::model::AppProtocol;
use std::os::unix::fs::symlink;

#[test]
fn nothing_changed_is_no_batch() {
    let dir = Dir::with("a.yaml", REVIEWS);
    let mut source = dir.source();
    assert_eq!(keys(&source.poll().unwrap()), [format!("+{REVIEWS_KEY}")]);
    assert!(source.poll().is_none());
    dir.write("a.yaml", REVIEWS);
    assert!(source.poll().is_none(), "written anew, but the same");
}

#[test]
fn an_empty_directory_yields_one_empty_batch() {
    let dir = Dir::new();
    let mut source = dir.source();
    assert!(source.poll().unwrap().changes.is_empty());
    assert!(source.poll().is_none());
}

#[test]
fn changes_are_told_one_resource_at_a_time() {
    let dir = Dir::with("a.yaml", REVIEWS);
    let mut source = dir.source();
    source.poll().unwrap();
    dir.write("b.yml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n");
    assert_eq!(keys(&source.poll().unwrap()), ["+n"]);
    dir.write("a.yaml", &REVIEWS.replace("http", "grpc"));
    assert_eq!(keys(&source.poll().unwrap()), [format!("+{REVIEWS_KEY}")]);
    fs::remove_file(dir.path("b.yml")).unwrap();
    assert_eq!(keys(&source.poll().unwrap()), ["-n"]);
    fs::rename(dir.path("a.yaml"), dir.path("c.yaml")).unwrap();
    assert!(source.poll().unwrap().changes.is_empty(), "a resource that moves to another file stays");
}

#[test]
fn a_config_map_swap_is_seen_and_read_once() {
    let dir = Dir::new();
    for (version, text) in [("..2024_1", REVIEWS.to_owned()), ("..2024_2", REVIEWS.replace("http", "grpc"))] {
        fs::create_dir(dir.path(version)).unwrap();
        fs::write(dir.path(version).join("mesh.yaml"), text).unwrap();
    }
    symlink("..2024_1", dir.path("..data")).unwrap();
    symlink("..data/mesh.yaml", dir.path("mesh.yaml")).unwrap();
    let mut source = dir.source();
    let batch = source.poll().unwrap();
    assert_eq!((batch.changes.len(), batch.findings.len()), (1, 0), "{:?}", batch.findings);
    symlink("..2024_2", dir.path("..data_tmp")).unwrap();
    fs::rename(dir.path("..data_tmp"), dir.path("..data")).unwrap();
    let batch = source.poll().unwrap();
    match &batch.changes[..] {
        [Change::Upsert(Resource::Service(service))] => assert_eq!(service.ports[0].protocol, AppProtocol::Grpc),
        other => panic!("{other:?}"),
    }
}

#[test]
fn directories_are_searched_and_hidden_and_other_files_are_not() {
    let dir = Dir::with("notes.txt", "{");
    dir.write(".hidden.yaml", "{");
    fs::create_dir_all(dir.path("sub/deeper")).unwrap();
    fs::create_dir_all(dir.path(".git")).unwrap();
    dir.write(".git/x.yaml", "{");
    dir.write("sub/deeper/a.yaml", REVIEWS);
    symlink("..", dir.path("sub/circle")).unwrap();
    assert_eq!(keys(&dir.source().poll().unwrap()), [format!("+{REVIEWS_KEY}")]);
}

#[test]
fn a_missing_path_is_an_error_and_removes_nothing() {
    let dir = Dir::with("a.yaml", REVIEWS);
    let mut source = ManifestSource::new(Config { paths: vec![dir.path("a.yaml"), dir.path("b.yaml")], ..dir.config() });
    let batch = source.poll().unwrap();
    assert_eq!(dir.texts(&batch.findings), ["b.yaml: error: no such file or directory"]);
    assert_eq!((batch.changes.len(), batch.rejected), (1, 1));
    fs::remove_file(dir.path("a.yaml")).unwrap();
    let batch = source.poll().unwrap();
    assert_eq!((batch.changes.len(), batch.rejected, batch.fresh.len(), batch.findings.len()), (0, 1, 1, 2));
}

#[test]
fn a_directory_that_cannot_be_read_any_more_keeps_what_was_below_it() {
    let (dir, elsewhere) = (Dir::new(), Dir::with("a.yaml", &format!("{REVIEWS}---\n{DENY}")));
    symlink(elsewhere.dir.path(), dir.path("team")).unwrap();
    let mut source = dir.source();
    assert_eq!(source.poll().unwrap().changes.len(), 2);
    fs::remove_file(dir.path("team")).unwrap();
    symlink(dir.path("nowhere"), dir.path("team")).unwrap();
    let batch = source.poll().unwrap();
    assert_eq!(dir.texts(&batch.findings), ["team: error: no such file or directory"]);
    assert_eq!((keys(&batch), batch.rejected), (Vec::new(), 1));
    assert!(source.poll().is_none());
    fs::remove_file(dir.path("team")).unwrap();
    let batch = source.poll().unwrap();
    assert_eq!((keys(&batch).len(), batch.findings.len()), (2, 0), "removed on purpose");
}

#[test]
fn directories_too_deep_to_be_read_are_told() {
    let dir = Dir::new();
    let deep = "d/".repeat(18);
    fs::create_dir_all(dir.path(&deep)).unwrap();
    dir.write(&format!("{deep}a.yaml"), REVIEWS);
    let found = dir.texts(&dir.source().poll().unwrap().findings);
    assert_eq!(found.len(), 1);
    assert!(found[0].ends_with("error: more than 16 directories deep"), "{found:?}");
}

#[test]
fn a_virtual_address_has_one_owner_and_a_newcomer_is_withheld() {
    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 10.1.0.1, ports: [{{name: http, port: 80}}]}}\n"
        )
    };
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\nspec:\n  hosts: [a.example, b.example]\n  addresses: ['::ffff:10.1.0.1']\n  resolution: STATIC\n  ports: [{number: 80, name: http, protocol: HTTP}]\n";
    let dir = Dir::with("m.yaml", entry);
    let mut source = dir.source();
    let batch = source.poll().unwrap();
    assert_eq!((batch.changes.len(), batch.findings.len()), (2, 0), "two hosts of one entry share its address");
    dir.write("n.yaml", &service("a"));
    let batch = source.poll().unwrap();
    assert_eq!((keys(&batch), batch.rejected), (Vec::new(), 1));
    assert_eq!(
        dir.texts(&batch.findings),
        ["n.yaml:4:19: error: Service default/a: spec.clusterIP: 10.1.0.1 is also an address of ServiceEntry default/e"]
    );
    // It moves in one batch.
    fs::remove_file(dir.path("m.yaml")).unwrap();
    let batch = source.poll().unwrap();
    assert_eq!((keys(&batch).len(), batch.findings.len()), (3, 0));
    // At start nobody is the newcomer: both are named.
    dir.write("m.yaml", entry);
    let found = dir.texts(&load(dir.config()).findings);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].ends_with("addresses[0]: 10.1.0.1 is also an address of Service default/a"), "{found:?}");
}
