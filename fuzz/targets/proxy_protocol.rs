//! The PROXY header that we write, read back by the letter of its specification (version 2, section 2.2). Nothing of ours
//! reads such a header from outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use isthmus_proxy::tcp::proxy_protocol::header;

fn address(bytes: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (&family, rest) = bytes.split_first()?;
    let (ip, rest): (IpAddr, &[u8]) = if family % 2 == 0 {
        let (ip, rest) = rest.split_first_chunk::<4>()?;
        (Ipv4Addr::from(*ip).into(), rest)
    } else {
        let (ip, rest) = rest.split_first_chunk::<16>()?;
        (Ipv6Addr::from(*ip).into(), rest)
    };
    let (port, rest) = rest.split_first_chunk::<2>()?;
    Some((SocketAddr::new(ip, u16::from_be_bytes(*port)), rest))
}

pub fn run(bytes: &[u8]) {
    let Some((source, rest)) = address(bytes) else { return };
    let Some((destination, _)) = address(rest) else { return };
    let written = header(source, destination);
    let (head, addresses) = written.split_at(16);
    assert_eq!(&head[..13], b"\r\n\r\n\0\r\nQUIT\n\x21", "signature, version 2, PROXY");
    assert_eq!(usize::from(u16::from_be_bytes([head[14], head[15]])), addresses.len());
    let both = |ip: IpAddr| ip.to_canonical();
    match head[13] {
        0x11 => {
            let (from, to) = addresses[..8].split_at(4);
            assert_eq!(both(source.ip()), IpAddr::from(<[u8; 4]>::try_from(from).unwrap()));
            assert_eq!(both(destination.ip()), IpAddr::from(<[u8; 4]>::try_from(to).unwrap()));
            assert_eq!(addresses.len(), 12);
        }
        0x21 => {
            let (from, to) = addresses[..32].split_at(16);
            assert_eq!(both(source.ip()), both(IpAddr::from(<[u8; 16]>::try_from(from).unwrap())));
            assert_eq!(both(destination.ip()), both(IpAddr::from(<[u8; 16]>::try_from(to).unwrap())));
            assert_eq!(addresses.len(), 36);
        }
        other => panic!("family {other}"),
    }
    let ports = &addresses[addresses.len() - 4..];
    assert_eq!(ports, [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat());
}
