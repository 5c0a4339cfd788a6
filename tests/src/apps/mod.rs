//! The programs under the mesh: ordinary ones that know nothing of it. Built-in ones always work and count what reaches
//! them; third-party ones (curl, nginx, openssl, PostgreSQL) are used where they are found, because a user runs those.
//!
//! Servers: [`http_server`], [`https_server`], [`echo_server`], [`greeter`], [`tls11::server`], [`Nginx`], [`Postgres`],
//! [`Sshd`], [`Etcd`], and any other program as a [`Daemon`]. Between a client and any of them: a [`Relay`].
//! Clients: [`Request`], [`curl`], [`raw::exchange`], [`tls11::hello`], [`openssl_client`], [`Load`], [`psql`],
//! [`python_client`].

mod client;
mod curl;
mod daemon;
mod etcd;
mod http;
mod load;
mod nginx;
mod openssl;
mod postgres;
mod python;
pub mod raw;
mod relay;
mod server;
mod sshd;
mod tcp;
mod tls;
pub mod tls11;

pub use client::{Request, Response};
pub use curl::{Fetched, curl, fetch};
pub use daemon::Daemon;
pub use etcd::{Etcd, EtcdTls};
pub use http::{http_server, https_server};
pub use load::{Load, LoadReport, RunningLoad};
pub use nginx::Nginx;
pub use openssl::{TlsAttempt, openssl_client};
pub use postgres::{Postgres, PostgresSettings, psql};
pub use python::{python_client, python_or_skip, python_process, python_server};
pub use relay::Relay;
pub use server::Server;
pub use sshd::Sshd;
pub use tcp::{echo_server, greeter};
pub use tls::{SelfSigned, TlsVersion};
