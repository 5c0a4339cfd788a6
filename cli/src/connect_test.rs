use isthmus_certs::TrustDomain;

use super::*;

#[test]
fn every_no_of_the_control_plane_keeps_its_words() {
    for code in [Code::NotFound, Code::InvalidArgument, Code::PermissionDenied, Code::Unavailable, Code::Internal] {
        let text = refused(&Status::new(code, "token 7f3a is used")).text();
        assert!(text.contains("token 7f3a is used"), "{code:?}: {text}");
    }
}

#[test]
fn any_address_gives_a_server_name() {
    for address in ["10.10.0.2:15013", "[fd00:10::2]:15013", "control.example:15013", "under_score:1", ""] {
        let _ = server_name(address);
    }
}

#[tokio::test]
async fn nobody_there_is_told_from_somebody_else() {
    // Bound and dropped: a port that nobody listens on.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let store = IdentityStore::new(TrustDomain::parse("shop.example").unwrap(), Arc::new(SystemClock));
    let tls = store.client_config(&[b"h2"], ExpectedPeer::AnyOf(Vec::new()));
    assert!(matches!(dial(&address, tls.clone(), Duration::from_secs(5)).await, Err(DialError::Unreachable(_))));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"SSH-2.0-OpenSSH_9.6\r\n").await.unwrap();
    };
    let (dialled, ()) = tokio::join!(dial(&address, tls, Duration::from_secs(5)), answer);
    assert!(matches!(dialled, Err(DialError::Tls(_))), "{dialled:?}");
}
