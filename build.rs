//! Makes Rust of the protobuf files below `proto/`. The compiler of protobuf is a crate as well, so
//! that a build needs no `protoc`.

use std::error::Error;

const FILES: [&str; 5] = ["authorization.proto", "ca.proto", "discovery.proto", "workload.proto", "zds.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(FILES, ["proto"])?;
    let mut config = prost_build::Config::new();
    // Resources stay slices of the response that they came in, however large it is; maps keep an order,
    // so that the same message always has the same bytes.
    config.bytes([".envoy", ".istio.workload", ".istio.security"]).btree_map(["."]);
    tonic_prost_build::configure().compile_fds_with_config(files, config)?;
    Ok(())
}
