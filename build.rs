//! Makes Rust of the protobuf files below `proto/`. The compiler of protobuf is a crate as well, so
//! that a build needs no `protoc`.

use std::error::Error;

const FILES: [&str; 1] = ["zds.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(FILES, ["proto"])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
