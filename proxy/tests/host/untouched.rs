//! What capture must not touch: ping, UDP unless it is asked to drop it, and then the resolvers.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};

use isthmus_proxy::redirect::Udp;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::host::{OTHER_V4, OTHER_V6, Pair, THIS_V4, THIS_V6};
use super::{DEADLINE, Outcome, Proxy};

/// Ping answers from the other host and from this one, also where UDP is dropped.
pub(crate) async fn ping_is_left_alone() -> Outcome {
    let _proxy = Proxy::capturing(|scope| scope.udp = Udp::Drop { resolvers: Vec::new() }).await?;
    for to in [IpAddr::from(OTHER_V4), OTHER_V6.into(), THIS_V4.into(), THIS_V6.into(), "::1".parse()?] {
        ping(to).map_err(|error| format!("ping {to}: {error}"))?;
    }
    Ok(())
}

/// One echo request, one reply (RFC 792, RFC 4443). Of ICMPv6 the kernel does the checksum.
fn ping(to: IpAddr) -> std::io::Result<()> {
    let (domain, protocol, request, reply) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.connect(&SocketAddr::new(to, 0).into())?;
    let checksum = !(u16::from(request) << 8);
    let [high, low] = checksum.to_be_bytes();
    socket.send(&[request, 0, high, low, 0, 0, 0, 0])?;
    loop {
        let mut buffer = [0; 256];
        let length = socket.read(&mut buffer)?;
        // Raw IPv4 sockets show the header too. To ourselves the request is seen as well.
        let header = if to.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
        if buffer[..length].get(header) == Some(&reply) {
            return Ok(());
        }
    }
}

/// UDP passes; where it is to be dropped only DNS to the resolvers does, and what is dropped is counted.
pub(crate) fn udp_passes_or_is_dropped_and_counted() -> Outcome {
    let pair = Pair::new()?;
    let (ready, far) = pair.other.start(|ready| async move {
        let mut sockets = Vec::new();
        for at in [(IpAddr::from(OTHER_V4), 53), (OTHER_V6.into(), 53), (OTHER_V4.into(), 9999)] {
            sockets.push(UdpSocket::bind(at).await?);
        }
        ready.send(()).map_err(|_| "gone")?;
        for (socket, expected) in sockets.iter().zip(["v4", "v6", "passes"]) {
            let mut buffer = [0; 16];
            let (length, _) = timeout(DEADLINE, socket.recv_from(&mut buffer)).await??;
            assert_eq!(&buffer[..length], expected.as_bytes());
        }
        Ok(())
    });
    ready.recv_timeout(DEADLINE)?;
    pair.this.run(|| async {
        let passing = Proxy::capturing(|_| ()).await?;
        let (v4, v6) = (UdpSocket::bind("0.0.0.0:0").await?, UdpSocket::bind("[::]:0").await?);
        v4.send_to(b"passes", (OTHER_V4, 9999)).await?;
        drop(passing);
        let resolvers = vec![OTHER_V4.into(), OTHER_V6.into()];
        let mut proxy = Proxy::capturing(|scope| scope.udp = Udp::Drop { resolvers }).await?;
        v4.send_to(b"v4", (OTHER_V4, 53)).await?;
        v6.send_to(b"v6", (OTHER_V6, 53)).await?;
        for (socket, to) in [(&v4, SocketAddr::from((OTHER_V4, 9999))), (&v6, (OTHER_V6, 443).into())] {
            let refused = socket.send_to(b"dropped", to).await.map_err(|error| error.kind());
            assert_eq!(refused.err(), Some(ErrorKind::PermissionDenied), "{to}");
        }
        assert_eq!(proxy.capture.dropped_udp()?, 2);
        let this = UdpSocket::bind((THIS_V4, 0)).await?;
        v4.send_to(b"to this host", this.local_addr()?).await?;
        timeout(DEADLINE, this.recv_from(&mut [0; 16])).await??;
        Ok(())
    })?;
    far.join()
}
