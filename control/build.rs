//! Compiles `proto/` into Rust and into the descriptor set that reflection serves.
//!
//! protox is a protobuf compiler in Rust, so that building needs no `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 6] = [
    "xvs/v1/types.proto",
    "xvs/v1/load_balancer.proto",
    "xvs/v1/diagnostics.proto",
    "xvs/v1/operations.proto",
    "xvs/v1/journal.proto",
    "xvs/v1/health.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("xvs_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
