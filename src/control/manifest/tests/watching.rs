use super::*;
use crate::model::{AppProtocol, PolicyTarget, TargetRef};
use std::{io::Write as _, os::unix::fs::symlink, time::Duration};

const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews}]
  rules: [{backendRefs: [{name: reviews, port: 80}]}]
";

const DENY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p}
spec:
  targetRefs: [{kind: Service, name: reviews}]
  action: DENY
  rules: [{to: [{operation: {methods: [DELETE]}}]}]
";

const REVIEWS_KEY: &str = "default/reviews.default.svc.cluster.local";

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

#[test]
fn a_truncated_file_keeps_what_it_held_and_recovers() {
    let text = format!("{REVIEWS}---\n{DENY}");
    let dir = Dir::with("a.yaml", &text);
    let mut source = dir.source();
    assert_eq!(source.poll().unwrap().changes.len(), 2);
    for (cut, rejected) in [("", 1), ("apiVersion: v1\nkind: Serv", 1), (&text[..text.len() - 8], 0), (&text[..130], 0)] {
        dir.write("a.yaml", cut);
        let batch = source.poll().unwrap();
        assert_eq!((keys(&batch), batch.rejected), (Vec::new(), rejected), "after {cut:?}: {:?}", batch.findings);
        assert!(source.poll().is_none(), "nothing new after {cut:?}");
    }
    dir.write("a.yaml", &text.replace("DELETE", "POST"));
    let batch = source.poll().unwrap();
    assert_eq!((keys(&batch), batch.findings.len()), (vec!["+default/p".to_owned()], 0));
}

#[test]
fn a_shortened_file_is_believed_when_its_writer_has_left() {
    let dir = Dir::with("a.yaml", &format!("{REVIEWS}---\n{DENY}"));
    let mut source = dir.source();
    source.poll().unwrap();
    dir.write("a.yaml", &format!("{REVIEWS}---\n{}", &DENY[..DENY.len() - 51]));
    assert_eq!(keys(&source.poll().unwrap()), Vec::<String>::new());
    let old = std::time::SystemTime::now() - Duration::from_secs(5);
    fs::File::options().write(true).open(dir.path("a.yaml")).unwrap().set_modified(old).unwrap();
    let batch = source.poll().unwrap();
    assert_eq!(keys(&batch), ["+default/p"]);
    assert!(policy(&batch).rules.is_empty());
    // Documents that end are an edit, at once.
    dir.write("a.yaml", REVIEWS);
    assert_eq!(keys(&source.poll().unwrap()), ["-default/p"]);
}

#[test]
fn a_broken_change_keeps_the_last_good_version() {
    let dir = Dir::with("a.yaml", &format!("{REVIEWS}---\n{ROUTE}"));
    let mut source = dir.source();
    source.poll().unwrap();
    let broken = ROUTE.replace("rules:", "rulez:");
    dir.write("a.yaml", &format!("{}---\n{broken}", REVIEWS.replace("http", "grpc")));
    let batch = source.poll().unwrap();
    assert_eq!(keys(&batch), [format!("+{REVIEWS_KEY}")], "the good change of the same file passes");
    assert_eq!(dir.texts(&batch.fresh), ["a.yaml:11:3: error: HTTPRoute default/r: spec.rulez: unknown field"]);
    assert_eq!(batch.rejected, 1);
    // Told once, and still listed.
    dir.write("b.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n");
    let batch = source.poll().unwrap();
    assert_eq!((batch.fresh.len(), batch.findings.len(), batch.rejected), (0, 1, 0));
    // Removed for good when the document goes.
    dir.write("a.yaml", REVIEWS);
    assert_eq!(keys(&source.poll().unwrap()), [format!("+{REVIEWS_KEY}"), "-default/r".into()].into_iter().rev().collect::<Vec<_>>());
}

#[test]
fn a_changed_reference_that_leads_nowhere_is_withheld() {
    let dir = Dir::with("a.yaml", REVIEWS);
    dir.write("r.yaml", ROUTE);
    let mut source = dir.source();
    source.poll().unwrap();
    dir.write("r.yaml", &ROUTE.replace("port: 80", "port: 81"));
    let batch = source.poll().unwrap();
    assert_eq!((keys(&batch), batch.rejected), (Vec::new(), 1));
    let expected =
        format!("r.yaml:6:48: error: HTTPRoute default/r: spec.rules[0].backendRefs[0].port: service {REVIEWS_KEY} has no port 81");
    assert_eq!(dir.texts(&batch.fresh), [expected]);
    // The port appears: the withheld version is taken without another look at its file.
    dir.write("a.yaml", &REVIEWS.replace("port: 80}", "port: 80}, {name: x, port: 81}"));
    let batch = source.poll().unwrap();
    assert_eq!((keys(&batch).len(), batch.findings.len()), (2, 0));
}

#[test]
fn what_another_removal_breaks_stays_with_an_error() {
    let dir = Dir::with("a.yaml", REVIEWS);
    dir.write("r.yaml", ROUTE);
    let mut source = dir.source();
    source.poll().unwrap();
    fs::remove_file(dir.path("a.yaml")).unwrap();
    let batch = source.poll().unwrap();
    assert_eq!((keys(&batch), batch.rejected), (vec![format!("-{REVIEWS_KEY}")], 0));
    assert_eq!(batch.findings.len(), 2, "{:?}", dir.texts(&batch.findings));
}

#[test]
fn broken_references_serve_from_the_start_only_when_lenient() {
    let dir = Dir::with("r.yaml", ROUTE);
    assert_eq!(keys(&dir.source().poll().unwrap()), Vec::<String>::new());
    let mut lenient = ManifestSource::new(Config { lenient: true, ..dir.config() });
    let batch = lenient.poll().unwrap();
    assert_eq!((keys(&batch), batch.rejected > 0), (vec!["+default/r".to_owned()], true));
}

#[test]
fn a_policy_that_never_was_valid_denies_its_scope() {
    let broken = DENY.replace("methods", "method");
    let dir = Dir::with("p.yaml", &broken);
    let mut source = dir.source();
    let batch = source.poll().unwrap();
    assert_eq!(policy(&batch).invalid.as_deref(), Some("unknown field"));
    assert!(matches!(&policy(&batch).target, PolicyTarget::Refs(refs) if matches!(refs[..], [TargetRef::Service(_)])));
    // Its repair replaces the stand-in.
    dir.write("p.yaml", DENY);
    assert_eq!(policy(&source.poll().unwrap()).invalid, None);
    // Once valid, a broken change keeps it.
    dir.write("p.yaml", &broken);
    assert!(source.poll().unwrap().changes.is_empty());
}

#[test]
fn a_policy_whose_target_is_unreadable_denies_all_it_may_have_meant() {
    for (from, to) in [("kind: Service,", "kind: Pod,"), ("targetRefs: [{kind: Service, name: reviews}]", "targetRefs: 1")] {
        let dir = Dir::with("p.yaml", &DENY.replace(from, to));
        assert_eq!(policy(&dir.source().poll().unwrap()).target, PolicyTarget::Unknown);
    }
}

#[test]
fn an_unreadable_document_that_may_be_a_policy_denies() {
    let dir = Dir::with("p.yaml", &format!("{REVIEWS}---\n{}", DENY.replace("DENY", "[")));
    let mut source = dir.source();
    let batch = source.poll().unwrap();
    assert_eq!((keys(&batch).len(), &policy(&batch).target), (2, &PolicyTarget::Unknown));
    // Readable: the stand-in goes, the policy comes.
    dir.write("p.yaml", &format!("{REVIEWS}---\n{DENY}"));
    let batch = source.poll().unwrap();
    assert_eq!(batch.changes.len(), 2);
    assert_eq!(policy(&batch).invalid, None);
    // Unreadable again: it was valid once, so it stays and nothing stands in.
    dir.write("p.yaml", &format!("{REVIEWS}---\n{}", DENY.replace("DENY", "[")));
    assert_eq!(keys(&source.poll().unwrap()), Vec::<String>::new());
    // A second one beside it never was.
    dir.write("p.yaml", &format!("{}---\n{}", DENY.replace("DENY", "["), DENY.replace("DENY", "[").replace("name: p", "name: q")));
    let batch = source.poll().unwrap();
    assert_eq!(policy(&batch).target, PolicyTarget::Unknown);
}

#[test]
fn two_definitions_are_an_error_at_the_second() {
    let dir = Dir::with("a.yaml", REVIEWS);
    dir.write("b.yaml", &REVIEWS.replace("http", "grpc"));
    let mut source = dir.source();
    let batch = source.poll().unwrap();
    let expected = format!("b.yaml:1:1: error: Service default/reviews: already defined at {}:1:1", dir.path("a.yaml").display());
    let expected = expected.replace(&format!("{}/", dir.dir.path().display()), "");
    assert_eq!(dir.texts(&batch.findings), [expected]);
    match &batch.changes[..] {
        [Change::Upsert(Resource::Service(service))] => assert_eq!(service.ports[0].protocol, AppProtocol::Http),
        other => panic!("{other:?}"),
    }
    // What was good before stays, whichever comes first.
    let dir = Dir::with("b.yaml", REVIEWS);
    let mut source = dir.source();
    source.poll().unwrap();
    dir.write("a.yaml", &REVIEWS.replace("http", "grpc"));
    assert!(source.poll().unwrap().changes.is_empty());
}

#[test]
fn a_policy_defined_twice_denies() {
    let dir = Dir::with("a.yaml", &format!("{DENY}---\n{DENY}"));
    assert_eq!(policy(&dir.source().poll().unwrap()).invalid.as_deref(), Some("defined twice"));
}

#[tokio::test]
async fn the_running_source_sends_batches_until_it_is_stopped() {
    let dir = Dir::with("a.yaml", REVIEWS);
    let (sender, mut batches) = tokio::sync::mpsc::channel(4);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(dir.source().run(sender, Duration::from_millis(20), async { drop(stopped.await) }));
    assert_eq!(batches.recv().await.unwrap().changes.len(), 1);
    dir.write("a.yaml", &REVIEWS.replace("http", "grpc"));
    assert_eq!(batches.recv().await.unwrap().changes.len(), 1);
    drop(stop);
    running.await.unwrap();
    assert!(batches.recv().await.is_none());
}

/// A running source that has looked once, and looks again only when it is told to.
struct Running {
    batches: tokio::sync::mpsc::Receiver<Batch>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(dir: &Dir) -> Self {
        let (sender, mut batches) = tokio::sync::mpsc::channel(4);
        let task = tokio::spawn(dir.source().run(sender, Duration::from_secs(3600), std::future::pending()));
        batches.recv().await.unwrap();
        Self { batches, task }
    }

    async fn next(&mut self) -> Vec<String> {
        keys(&self.batches.recv().await.unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn a_finished_change_is_told_at_once() {
    let other = |n: u32| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: n{n}}}\n");
    let dir = Dir::with("a.yaml", REVIEWS);
    let mut running = Running::start(&dir).await;
    dir.write("a.yaml", &REVIEWS.replace("http", "grpc"));
    assert_eq!(running.next().await, [format!("+{REVIEWS_KEY}")], "closed after writing");
    dir.write(".a.yaml.new", &REVIEWS.replace("http", "tcp"));
    fs::rename(dir.path(".a.yaml.new"), dir.path("a.yaml")).unwrap();
    assert_eq!(running.next().await, [format!("+{REVIEWS_KEY}")], "moved into place");
    fs::create_dir(dir.path("sub")).unwrap();
    dir.write("sub/b.yaml", &other(1));
    assert_eq!(running.next().await, ["+n1"], "in a new directory");
    dir.write("sub/b.yaml", &other(2));
    assert_eq!(running.next().await, ["-n1", "+n2"], "which is watched as well");
    fs::remove_dir_all(dir.path("sub")).unwrap();
    assert_eq!(running.next().await, ["-n2"], "removed");
    let elsewhere = Dir::with("c.yaml", &other(3));
    symlink(elsewhere.dir.path(), dir.path("linked")).unwrap();
    assert_eq!(running.next().await, ["+n3"], "linked");
    elsewhere.write("c.yaml", &other(4));
    assert_eq!(running.next().await, ["-n3", "+n4"], "behind a link");
}

#[tokio::test]
async fn the_swap_of_a_config_map_is_told_at_once() {
    let dir = Dir::new();
    let mount = |version: &str, text: &str| {
        fs::create_dir(dir.path(version)).unwrap();
        dir.write(&format!("{version}/mesh.yaml"), text);
        symlink(version, dir.path("..data_tmp")).unwrap();
        fs::rename(dir.path("..data_tmp"), dir.path("..data")).unwrap();
    };
    mount("..0", REVIEWS);
    symlink("..data/mesh.yaml", dir.path("mesh.yaml")).unwrap();
    for (paths, versions) in [(vec![dir.dir.path().to_owned()], ["..1", "..2"]), (vec![dir.path("mesh.yaml")], ["..3", "..4"])] {
        let (sender, mut batches) = tokio::sync::mpsc::channel(4);
        let source = ManifestSource::new(Config { paths, ..dir.config() });
        let running = tokio::spawn(source.run(sender, Duration::from_secs(3600), std::future::pending()));
        batches.recv().await.unwrap();
        for (version, protocol) in versions.into_iter().zip(["grpc", "http"]) {
            mount(version, &REVIEWS.replace("http", protocol));
            assert_eq!(keys(&batches.recv().await.unwrap()), [format!("+{REVIEWS_KEY}")], "{version}");
        }
        running.abort();
    }
}

#[tokio::test]
async fn what_is_written_together_is_handed_over_together() {
    let dir = Dir::with("a.yaml", REVIEWS);
    dir.write("b.yaml", DENY);
    let mut source = dir.source();
    assert_eq!(source.poll().unwrap().changes.len(), 2);
    dir.write("a.yaml", &REVIEWS.replace("http", "grpc"));
    // Written a moment before its neighbour: at the first look it has settled, and the other has not.
    let earlier = std::time::SystemTime::now() - Duration::from_secs(5);
    fs::File::options().append(true).open(dir.path("a.yaml")).unwrap().set_modified(earlier).unwrap();
    dir.write("b.yaml", &DENY.replace("DELETE", "POST"));
    let (sender, mut batches) = tokio::sync::mpsc::channel(4);
    let running = tokio::spawn(source.run(sender, Duration::from_secs(1), std::future::pending()));
    assert_eq!(keys(&batches.recv().await.unwrap()), [format!("+{REVIEWS_KEY}"), "+default/p".to_owned()]);
    running.abort();
}

#[tokio::test]
async fn a_file_that_is_written_all_the_time_does_not_hold_the_others_up_for_ever() {
    let dir = Dir::with("a.yaml", REVIEWS);
    let mut source = dir.source();
    source.poll().unwrap();
    dir.write("a.yaml", &REVIEWS.replace("http", "grpc"));
    let earlier = std::time::SystemTime::now() - Duration::from_secs(5);
    fs::File::options().append(true).open(dir.path("a.yaml")).unwrap().set_modified(earlier).unwrap();
    let (sender, mut batches) = tokio::sync::mpsc::channel(4);
    let running = tokio::spawn(source.run(sender, Duration::from_millis(100), std::future::pending()));
    let mut restless = tokio::time::interval(Duration::from_millis(5));
    // It is never closed: only the time since the last write tells.
    let mut open = fs::File::create(dir.path("restless.yaml")).unwrap();
    let batch = loop {
        tokio::select! {
            batch = batches.recv() => break batch.unwrap(),
            _ = restless.tick() => {
                open.write_all(b"---\n# more\n").unwrap();
            }
        }
    };
    assert_eq!(keys(&batch), [format!("+{REVIEWS_KEY}")]);
    running.abort();
}
