//! The programs under the mesh: ordinary ones that know nothing of it. Built-in ones always work and count what reaches
//! them; third-party ones (curl, nginx, openssl, PostgreSQL) are used where they are found, because a user runs those.
//!
//! Servers: [`http_server`], [`https_server`], [`echo_server`], [`greeter`], [`tls11::server`], [`Nginx`], [`Postgres`].
//! Clients: [`Request`], [`curl`], [`raw::exchange`], [`tls11::hello`], [`openssl_client`], [`Load`], [`psql`].

mod client;
mod curl;
mod http;
mod load;
mod nginx;
mod openssl;
mod postgres;
pub mod raw;
mod server;
mod tcp;
mod tls;
pub mod tls11;

pub use client::{Request, Response};
pub use curl::{Fetched, curl, fetch};
pub use http::{http_server, https_server};
pub use load::{Load, LoadReport, RunningLoad};
pub use nginx::Nginx;
pub use openssl::{TlsAttempt, openssl_client};
pub use postgres::{Postgres, psql};
pub use server::Server;
pub use tcp::{echo_server, greeter};
pub use tls::{SelfSigned, TlsVersion};
