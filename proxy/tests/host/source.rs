//! An app that sees its caller's address, on a host whose traffic is captured: the answers must come back to the proxy.

use std::net::{IpAddr, SocketAddr};

use isthmus_proxy::redirect::source::{SOURCE_MARK, SourceRouting};
use isthmus_proxy::tcp::{DialOptions, dial, dial_from};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::host::{OTHER_V4, OTHER_V6, THIS_V4, THIS_V6};
use crate::{DEADLINE, Outcome, Proxy};

/// A port of the caller's address is taken for one app and not for all of them.
pub(crate) async fn the_ports_of_a_callers_address_serve_every_app() -> Outcome {
    const PORTS: usize = 4;
    let _proxy = Proxy::capturing(|_| {}).await?;
    let _routing = SourceRouting::open()?;
    // Now that all who listen have their ports.
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003")?;
    let options = DialOptions { mark: Some(SOURCE_MARK), deadline: DEADLINE };
    let mut open = Vec::new();
    for (own, caller) in [(IpAddr::from(THIS_V4), IpAddr::from(OTHER_V4)), (THIS_V6.into(), OTHER_V6.into())] {
        for port in [9001, 9002] {
            let app = TcpListener::bind((own, port)).await?;
            for place in 0..PORTS {
                let (accepted, dialled) = tokio::join!(
                    tokio::time::timeout(DEADLINE, app.accept()),
                    dial_from(caller, app.local_addr()?, options)
                );
                let dialled = dialled.map_err(|error| format!("{caller} → {own}:{port}, {place}: {error}"))?;
                open.push((accepted??, dialled));
            }
            // This app's are used up: it is the kernel that says no, at once.
            assert!(dial_from(caller, app.local_addr()?, options).await.is_err());
        }
    }
    Ok(())
}

/// Callers beyond a router, and one on the same cable.
pub(crate) async fn an_app_sees_its_callers_address_and_its_answers_come_back() -> Outcome {
    let _proxy = Proxy::capturing(|_| {}).await?;
    SourceRouting::permitted()?;
    let routing = SourceRouting::open()?;
    let callers: [(IpAddr, IpAddr); 4] = [
        (THIS_V4.into(), "203.0.113.9".parse()?),
        (THIS_V4.into(), OTHER_V4.into()),
        (THIS_V6.into(), "2001:db8::9".parse()?),
        (THIS_V6.into(), OTHER_V6.into()),
    ];
    for (own, caller) in callers {
        let app = TcpListener::bind((own, 0)).await?;
        let address = app.local_addr()?;
        let options = DialOptions { mark: Some(SOURCE_MARK), deadline: DEADLINE };
        let (accepted, dialled) =
            tokio::join!(tokio::time::timeout(DEADLINE, app.accept()), dial_from(caller, address, options));
        let mut dialled = dialled.map_err(|error| format!("{caller} → {address}: {error}"))?;
        let (mut accepted, peer) = accepted??;
        assert_eq!(peer.ip(), caller);
        accepted.write_all(&vec![7; 1 << 20]).await?;
        accepted.shutdown().await?;
        let mut answer = Vec::new();
        tokio::time::timeout(DEADLINE, dialled.read_to_end(&mut answer)).await??;
        assert_eq!(answer.len(), 1 << 20);
    }
    drop(routing);
    // Nothing of it is left for anybody else: a second owner finds the place empty.
    drop(SourceRouting::open()?);
    let app = TcpListener::bind((THIS_V4, 0)).await?;
    let (accepted, dialled) = tokio::join!(app.accept(), dial(app.local_addr()?, DialOptions::default()));
    let (_, peer): (_, SocketAddr) = accepted?;
    dialled?;
    assert_eq!(peer.ip(), IpAddr::from(THIS_V4));
    Ok(())
}
