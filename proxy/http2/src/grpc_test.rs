use super::*;

#[test]
fn a_grpc_timeout_is_read_as_the_protocol_has_it() {
    assert_eq!(grpc_timeout(b"12345678u"), Some(Duration::from_micros(12_345_678)));
    assert_eq!(grpc_timeout(b"0n"), Some(Duration::ZERO));
    assert_eq!(grpc_timeout(b"3M"), Some(Duration::from_secs(180)));
    for wrong in ["", "S", "5", "123456789S", "-1S", "1 S", "1.5S", "1s", "+1S"] {
        assert_eq!(grpc_timeout(wrong.as_bytes()), None, "{wrong}");
    }
}
