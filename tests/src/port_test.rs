use std::net::{TcpListener, TcpStream};

use super::*;

#[test]
fn whoever_is_told_listens_there_again_and_again_and_meanwhile_nobody_is_answered() {
    let port = Port::reserve().unwrap();
    for _ in 0..3 {
        let refused = TcpStream::connect(port.address()).map_err(|error| error.kind());
        assert_eq!(refused.err(), Some(io::ErrorKind::ConnectionRefused));
        let listener = TcpListener::bind(port.address()).unwrap();
        let caller = TcpStream::connect(port.address()).unwrap();
        assert_eq!(listener.accept().unwrap().1, caller.local_addr().unwrap());
    }
}

#[test]
fn two_are_not_the_same() {
    let (one, other) = (Port::reserve().unwrap(), Port::reserve().unwrap());
    assert_ne!(one.address(), other.address());
    let any: Vec<TcpListener> = (0..64).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    assert!(any.iter().all(|any| any.local_addr().unwrap() != one.address()));
}
