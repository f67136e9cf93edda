//! Compiles the messages that the data plane reads and writes from protos/, without a protoc on the machine.

use std::path::PathBuf;

const PROTOS: [&str; 5] = [
    "inference/model_config.proto",
    "inference/grpc_service.proto",
    "tickserve/v1/prediction.proto",
    "grpc/health/v1/health.proto",
    "grpc/reflection/v1/reflection.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../protos");
    for proto in PROTOS {
        println!("cargo:rerun-if-changed={}", root.join(proto).display());
    }
    let descriptors = protox::compile(PROTOS, [&root])?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    config.disable_comments(["."]);
    config.include_file("protos.rs");
    config.compile_fds(descriptors)?;
    Ok(())
}
