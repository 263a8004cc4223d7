//! Whatever happens to files, what is remembered from round to round leads to the same as judging
//! everything anew.

use super::{
    super::{
        file::ManifestFile,
        files,
        reconcile::{Reconciler, Replaced},
    },
    oracle, *,
};
use proptest::{prelude::*, sample::Index};
use std::collections::BTreeMap;

/// Documents of a few ids that need, hide, double and contradict each other.
fn documents() -> Vec<String> {
    let mut all = vec![
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n".to_owned(),
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio.io/use-waypoint: g}}\n".into(),
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {team: a}}\n".into(),
        "apiVersion: v1\nkind: Pod\nmetadata: {name: w}\nspec: {containers: []}\nstatus: {podIP: 10.0.0.1}\n".into(),
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n".into(),
        "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n".into(),
        "# nothing\n".into(),
        "just text\n".into(),
        "kind: AuthorizationPolicy\nmetadata: {name: p}\n".into(),
        "kind: AuthorizationPolicy\nmetadata: {name: p\n".into(),
        "kind: AuthorizationPolicy\nmetadata: {name: q]\n".into(),
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {generateName: p}\n".into(),
        "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"default\"}}, {\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"n\"}}]}\n".into(),
    ];
    for name in ["a", "b"] {
        for spec in [
            "{ports: [{name: http, port: 80}]}",
            "{ports: [{name: http, port: 81}, {name: x, port: 80}]}",
            "{clusterIP: 10.1.0.1, ports: [{name: http, port: 80}]}",
            "{clusterIP: 10.1.0.2, ports: [{name: http, port: 80}]}",
            "{portz: []}",
            "{type: ExternalName}",
        ] {
            all.push(format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n"));
        }
        for (hosts, more) in [
            ("a.example", ""),
            ("a.example, b.example", ", addresses: [10.1.0.1]"),
            ("a.default.svc.cluster.local", ""),
            ("b.example, b.example", ""),
        ] {
            all.push(format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec: {{hosts: [{hosts}], resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}]{more}}}\n"
            ));
        }
        for parent in [
            "{group: '', kind: Service, name: a}",
            "{group: '', kind: Service, name: b, port: 81}",
            "{group: '', kind: Service, name: a, sectionName: x}",
            "{group: networking.istio.io, kind: ServiceEntry, name: a}",
            "{group: networking.istio.io, kind: ServiceEntry, name: b, port: 80}",
            "{name: g}",
            "{name: g}, {name: h}",
        ] {
            for rule in [
                "{backendRefs: [{name: b, port: 80}]}",
                "{backendRefs: [{kind: Hostname, group: networking.istio.io, name: b.example, port: 80}]}",
                "{rulez: 1}",
            ] {
                all.push(format!(
                    "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  parentRefs: [{parent}]\n  rules: [{rule}]\n"
                ));
            }
        }
        for spec in [
            "{action: DENY, rules: [{}]}",
            "{action: DENY, rulez: [{}]}",
            "{targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: a}], action: DENY, rules: [{}]}",
            "{targetRefs: [{kind: Service, name: nobody}], action: DENY}",
        ] {
            all.push(format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"));
        }
    }
    for name in ["g", "h"] {
        for (class, listener) in [
            ("istio-waypoint", "{name: mesh, port: 15008, protocol: HBONE}"),
            (
                "istio-waypoint",
                "{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}}",
            ),
            ("istio-waypoint", "{name: mesh, port: 80, protocol: HTTP}"),
            ("nginx", "{name: web, port: 80, protocol: HTTP}"),
        ] {
            all.push(format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec: {{gatewayClassName: {class}, listeners: [{listener}]}}\n"
            ));
        }
    }
    all
}

/// One edit of one of the files.
#[derive(Debug, Clone)]
enum Edit {
    Insert(Index, Index),
    Replace(Index, Index),
    /// The same in other words.
    Comment(Index),
    Remove(Index),
    Rotate(Index),
    Swap(Index),
    Truncate,
    Delete,
    /// The directory can or cannot be read.
    Hide,
}

fn edit() -> impl Strategy<Value = (usize, Edit)> {
    let index = any::<Index>;
    let edit = prop_oneof![
        8 => (index(), index()).prop_map(|(at, what)| Edit::Insert(at, what)),
        6 => (index(), index()).prop_map(|(at, what)| Edit::Replace(at, what)),
        1 => index().prop_map(Edit::Comment),
        3 => index().prop_map(Edit::Remove),
        1 => index().prop_map(Edit::Rotate),
        1 => index().prop_map(Edit::Swap),
        1 => Just(Edit::Truncate),
        1 => Just(Edit::Delete),
        1 => Just(Edit::Hide),
    ];
    (0..3usize, edit)
}

/// The files in memory, and both reconcilers.
struct World {
    dir: Dir,
    texts: [Option<Vec<String>>; 3],
    files: BTreeMap<PathBuf, ManifestFile>,
    unreadable: BTreeMap<PathBuf, String>,
    remembering: Reconciler,
    oracle: oracle::Reconciler,
}

impl World {
    fn new(lenient: bool) -> Self {
        let (remembering, oracle) = (Reconciler::new(lenient, Owns::Everything), oracle::Reconciler::new(lenient));
        Self { dir: Dir::new(), texts: Default::default(), files: BTreeMap::new(), unreadable: BTreeMap::new(), remembering, oracle }
    }

    fn edit(&mut self, file: usize, edit: &Edit, pool: &[String]) {
        let texts = self.texts[file].get_or_insert_default();
        let len = texts.len();
        let at = |index: &Index| index.index(len.max(1));
        match edit {
            Edit::Insert(i, what) => texts.insert(i.index(len + 1), pool[what.index(pool.len())].clone()),
            Edit::Replace(i, what) if len > 0 => texts[at(i)].clone_from(&pool[what.index(pool.len())]),
            Edit::Comment(i) if len > 0 => texts[at(i)].push_str("# more\n"),
            Edit::Remove(i) if len > 0 => drop(texts.remove(at(i))),
            Edit::Rotate(i) if len > 0 => texts.rotate_left(at(i)),
            Edit::Swap(i) => self.texts.swap(file, i.index(3)),
            Edit::Truncate => texts.clear(),
            Edit::Delete => self.texts[file] = None,
            Edit::Hide => {
                let path = self.dir.dir.path().to_owned();
                if self.unreadable.remove(&path).is_none() {
                    self.unreadable.insert(path, "hidden".into());
                }
            }
            Edit::Replace(..) | Edit::Comment(_) | Edit::Remove(_) | Edit::Rotate(_) => {}
        }
    }

    /// What has changed, as the source tells it.
    fn look(&mut self) -> Vec<Replaced> {
        for (name, text) in ["a.yaml", "b.yaml", "c.yaml"].into_iter().zip(&self.texts) {
            match text {
                // By another name first: a file is never seen half-written.
                Some(text) => {
                    self.dir.write(".new", &text.join("---\n"));
                    fs::rename(self.dir.path(".new"), self.dir.path(name)).unwrap();
                }
                None => drop(fs::remove_file(self.dir.path(name))),
            }
        }
        let scan = files::scan(&[self.dir.dir.path().to_owned()]);
        let gone: Vec<_> = self.files.extract_if(.., |path, _| !scan.files.contains_key(path)).collect();
        let mut replaced: Vec<_> = gone.into_iter().map(|(path, before)| Replaced { path, before: Some(before) }).collect();
        for (path, stamp) in scan.files {
            let known = self.files.get(&path);
            let read = ManifestFile::read(&self.dir.config(), &path, stamp, known);
            if known.is_none_or(|known| !known.same_contents(&read)) {
                replaced.push(Replaced { before: self.files.insert(path.clone(), read), path });
            }
        }
        replaced
    }

    fn check(&mut self, what: &dyn std::fmt::Debug) {
        let replaced = self.look();
        let found = self.remembering.reconcile(&self.files, &self.unreadable, replaced);
        let expected = self.oracle.reconcile(&self.files, &self.unreadable);
        let words = |batch: &Batch| {
            (
                batch.changes.iter().map(|c| format!("{c:?}")).collect::<Vec<_>>(),
                batch.findings.clone(),
                batch.fresh.clone(),
                batch.rejected,
            )
        };
        assert_eq!(words(&found), words(&expected), "after {what:?}, with\n{:#?}", self.texts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, max_shrink_iters: 3000, ..ProptestConfig::default() })]

    #[test]
    fn rounds_that_remember_agree_with_rounds_that_do_not(lenient in any::<bool>(), edits in proptest::collection::vec((edit(), any::<bool>()), 1..40)) {
        let (pool, mut world) = (documents(), World::new(lenient));
        for ((file, edit), together) in edits {
            world.edit(file, &edit, &pool);
            if !together {
                world.check(&edit);
            }
        }
        world.check(&"the end");
        world.check(&"nothing at all");
    }
}
