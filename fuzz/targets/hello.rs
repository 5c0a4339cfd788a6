//! ClientHello and ServerHello: a longer read never changes what a shorter one found.

use isthmus_proxy::detect::client_hello::{self, Parsed};
use isthmus_proxy::detect::server_hello;

pub fn run(bytes: &[u8]) {
    if let Parsed::Hello(hello, length) = client_hello::parse(bytes) {
        assert!(length <= bytes.len());
        assert_eq!(client_hello::parse(&bytes[..length]), Parsed::Hello(hello, length));
        assert_eq!(client_hello::parse(&bytes[..length - 1]), Parsed::Incomplete);
    }
    if let Parsed::Hello(hello, length) = server_hello::parse(bytes) {
        assert!(length <= bytes.len());
        assert_eq!(server_hello::parse(&bytes[..length]), Parsed::Hello(hello, length));
    }
}
