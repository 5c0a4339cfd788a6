//! The control plane: resources in, identities and small pushes out.
//!
//! In the order in which a change travels: [`source`] and [`admin`] (where it comes from) · [`validate`] (is it sound) ·
//! [`ledger`] (the one writer) · [`store`] (where it rests) · [`index`] (what each proxy should see) · [`push`] (how it
//! gets there). Beside it: [`identity`] (who gets which certificate), [`authority`] (who signs), [`operators`] (who may do what), [`approval`] (what takes two of them), [`audit`] (what
//! was issued, refused and changed), [`backup`], [`serve`] (sockets and TLS), `app` (wiring).
#![forbid(unsafe_code)]

pub mod admin;
mod app;
pub mod approval;
pub mod audit;
pub mod authority;
pub mod backup;
pub mod config;
pub mod confirm;
pub mod flows;
pub mod history;
pub mod identity;
pub mod index;
pub mod ledger;
pub mod live;
pub mod operators;
mod pages;
mod process;
pub mod push;
pub mod serve;
pub mod source;
mod speaks;
pub mod store;
pub mod validate;
pub mod views;

pub use app::{Control, ControlError, run};
pub use config::{Config, ConfigError};
pub use process::{Args, run_blocking};

#[cfg(test)]
#[path = "e2e_test.rs"]
mod e2e_test;
#[cfg(test)]
#[path = "examples_test.rs"]
mod examples_test;
