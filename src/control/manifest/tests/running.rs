//! The source as it runs: when a change is told.

use super::*;
use std::{io::Write as _, os::unix::fs::symlink, time::Duration};

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
