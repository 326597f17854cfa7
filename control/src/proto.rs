//! The generated messages, clients and servers of `proto/`.

/// `xvs.v1`, the only version so far. It grows, it does not change.
#[expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    clippy::too_many_lines,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("xvs.v1");
}

/// Descriptors of everything in `proto/`, encoded, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/xvs_descriptor.bin"));
