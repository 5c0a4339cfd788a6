use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use proptest::prelude::*;

use super::*;

fn pair(listen: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(listen).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

#[test]
fn the_kernel_tells_of_a_connection_by_its_addresses() {
    let mut kernel = TcpDiagnosis::open().unwrap();
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let (mut client, mut server) = pair(listen);
        client.write_all(&[7; 3000]).unwrap();
        server.read_exact(&mut [0; 3000]).unwrap();
        let (local, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let info = kernel.of(local, peer).unwrap().expect("it is open");
        assert!(info.rtt > Duration::ZERO && info.sent >= 1 && info.retransmitted == 0, "{info:?}");
        assert!(info.path_mtu >= 1280, "{info:?}");
        // The SYN counts as one.
        assert!((3000..=3001).contains(&info.acknowledged) && info.received == 0, "{info:?}");
        let theirs = kernel.of(peer, local).unwrap().expect("the other end");
        assert_eq!(theirs.received, 3000, "{theirs:?}");
    }
}

#[test]
fn a_connection_that_is_not_there_is_no_error() {
    let mut kernel = TcpDiagnosis::open().unwrap();
    let (client, _server) = pair("127.0.0.1:0");
    let local = client.local_addr().unwrap();
    assert_eq!(kernel.of(local, "127.0.0.1:1".parse().unwrap()).unwrap(), None);
}

proptest! {
    #[test]
    fn any_length_of_answer_can_be_read(value in proptest::collection::vec(any::<u8>(), 0..300)) {
        let info = TcpInfo::read(&value);
        prop_assert!(value.len() >= 72 || info.rtt == Duration::ZERO);
    }
}
