//! `cairn demo`: the bookinfo mesh in one process, with real sockets and TLS everywhere.
//!
//! A CA, seven small applications, ztunnel mode for the workloads of two nodes and one waypoint,
//! all from the manifests in `config/bookinfo`. Only the addresses are special: everything stands
//! on loopback.

mod apps;
mod city;
pub mod control_plane;
mod feed;
mod report;
mod socks;
mod traffic;

use crate::{app::AppError, settings::DemoCommand, telemetry};
use city::City;
use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// The manifests as they were when the binary was built, for a binary that is run elsewhere.
const BUILT_IN: [(&str, &str); 6] = [
    ("namespace.yaml", include_str!("../../config/bookinfo/namespace.yaml")),
    ("services.yaml", include_str!("../../config/bookinfo/services.yaml")),
    ("pods.yaml", include_str!("../../config/bookinfo/pods.yaml")),
    ("waypoint.yaml", include_str!("../../config/bookinfo/waypoint.yaml")),
    ("routes.yaml", include_str!("../../config/bookinfo/routes.yaml")),
    ("policies.yaml", include_str!("../../config/bookinfo/policies.yaml")),
];

/// Runs the demo until Ctrl-C, or with `--once` for one report.
///
/// # Errors
/// When the mesh cannot be started, or with `--once` when a step of the tour did not come out as it
/// should.
pub async fn demo(command: DemoCommand) -> Result<(), AppError> {
    let log = telemetry::log::init(Some(&command.log), false);
    let scratch = Scratch::new().map_err(|e| AppError::Run(e.into()))?;
    let manifests = manifests(&command.manifests, scratch.path()).map_err(|e| AppError::Run(e.into()))?;
    let mut city = City::start(&manifests, scratch.path(), command.control_plane, log).await?;
    say(&report::welcome(&city));
    let mut ended = std::pin::pin!(crate::runtime::signal::shutdown_requested());
    loop {
        let tour = tokio::select! {
            tour = traffic::tour(&mut city) => tour,
            _ = &mut ended => break,
        };
        say(&report::report(&tour));
        if command.once {
            city.stop().await;
            return if tour.is_as_told() { Ok(()) } else { Err(AppError::Run(anyhow::anyhow!("the tour did not come out as it should"))) };
        }
        say(&report::invitation(&city));
        tokio::select! {
            () = tokio::time::sleep(command.interval) => {}
            _ = &mut ended => break,
        }
    }
    say("\ndraining\n");
    city.stop().await;
    Ok(())
}

/// A closed standard output ends nothing.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The directory given if it is there, else the built-in copy.
fn manifests(wanted: &Path, scratch: &Path) -> io::Result<PathBuf> {
    if wanted.is_dir() {
        return Ok(wanted.to_owned());
    }
    let directory = scratch.join("manifests");
    std::fs::create_dir_all(&directory)?;
    for (name, text) in BUILT_IN {
        std::fs::write(directory.join(name), text)?;
    }
    Ok(directory)
}

/// A directory for keys and certificates, removed at the end.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("cairn-demo-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left behind only if the system will not have it; then there is nobody to tell.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
