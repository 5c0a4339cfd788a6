//! The control plane: resources in, identities and small pushes out.
pub mod store;
pub mod validate;
