//! Compiles `proto/` into `OUT_DIR`. No protoc needed.
use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

#[allow(clippy::disallowed_methods, reason = "cargo tells a build script so")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::compile(["sluice/ingest/v1/ingest.proto"], ["proto"])?;
    fs::write(out.join("ingest.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
