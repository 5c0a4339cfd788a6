//! The way from this proxy to its own app, for bytes: from the caller's address where the service keeps it and the host
//! lets us, and with a PROXY header where the service asks for one.
//!
//! HTTP requests of many callers share the app's connections and come from the proxy's own address; who calls stands in
//! `x-forwarded-client-cert`.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Inbound;
use crate::state::{InboundPort, ProxyProtocol, SourceAddress};
use crate::tcp::{DialOptions, dial, dial_from, proxy_protocol};

/// Connects to `app` for `caller`, whose port is of no meaning to anybody behind the caller's own sidecar.
pub(super) async fn reach(
    inbound: &Inbound,
    app: SocketAddr,
    caller: SocketAddr,
    port: &InboundPort,
) -> io::Result<TcpStream> {
    let caller = SocketAddr::new(caller.ip().to_canonical(), caller.port());
    let mark = inbound.needs.source_mark.filter(|_| port.options.source_address == SourceAddress::Preserve);
    let own = |ip: IpAddr| ip.is_loopback() || inbound.needs.state.snapshot().is_own_address(ip);
    let mut stream = match mark {
        Some(mark) if caller.is_ipv4() == app.is_ipv4() && !own(caller.ip()) => {
            dial_from(caller.ip(), app, DialOptions { mark: Some(mark), ..inbound.dial }).await?
        }
        _ => dial(app, inbound.dial).await?,
    };
    if port.options.proxy_protocol == ProxyProtocol::V2 {
        stream.write_all(&proxy_protocol::header(caller, app)).await?;
    }
    Ok(stream)
}
