//! The control plane: resources in, identities and small pushes out.
pub mod index;
pub mod store;
pub mod validate;
