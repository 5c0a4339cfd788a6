//! Where resources come from, besides the admin API: a directory of YAML files.

mod directory;

pub use directory::{Report, follow, sync};

#[cfg(test)]
#[path = "directory_test.rs"]
mod directory_test;
