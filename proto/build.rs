//! Compiles the .proto files with protox, so that nobody needs protoc.

use prost::Message;
use std::error::Error;
use std::path::PathBuf;

const FILES: [&str; 12] = [
    "isthmus/identity/v1/identity.proto",
    "isthmus/discovery/v1/discovery.proto",
    "isthmus/admin/v1/admin.proto",
    "isthmus/admin/v1/access.proto",
    "isthmus/admin/v1/authority.proto",
    "isthmus/admin/v1/policy.proto",
    "isthmus/admin/v1/resources.proto",
    "isthmus/admin/v1/live.proto",
    "isthmus/flows/v1/flows.proto",
    "isthmus/live/v1/live.proto",
    "isthmus/traces/v1/traces.proto",
    "isthmus/admin/v1/traces.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // No tonic transport: both ends bring their own TLS connector and acceptor.
        .build_transport(false)
        .codec_path("crate::codec::Lean")
        // Ordered maps encode the same bytes every time, so that an unchanged view pushes nothing.
        .btree_map(".")
        // These carry secrets; `redact.rs` writes their Debug by hand.
        .skip_debug([
            ".isthmus.identity.v1.EnrollRequest",
            ".isthmus.identity.v1.KubernetesProof",
            ".isthmus.admin.v1.CreateJoinTokenResponse",
            ".isthmus.admin.v1.CreateAccessTokenResponse",
            ".isthmus.admin.v1.RedeemRequest",
        ])
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
