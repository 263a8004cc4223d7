//! Pings that tell a dead peer from a silent one.

use super::Config;
use h2::{Ping, PingPong};
use std::future::poll_fn;

/// Resolves when a ping was not answered in time, or the connection ended. Cancel safe.
///
/// The first ping goes out one interval after the start, each further one an interval after the
/// pong before.
pub(super) async fn lost(mut ping_pong: PingPong, config: &Config) {
    loop {
        tokio::time::sleep(config.ping_interval).await;
        if ping_pong.send_ping(Ping::opaque()).is_err() {
            return;
        }
        let pong = poll_fn(|cx| ping_pong.poll_pong(cx));
        match tokio::time::timeout(config.ping_timeout, pong).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
