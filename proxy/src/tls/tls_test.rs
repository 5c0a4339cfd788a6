//! The gate, byte by byte.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::gate::{GateError, open};
use crate::detect::WireVersion;
use crate::detect::hello_bytes::{client_hello, server_hello};

/// Both ends of a gate: what the client's app and the server's app hold, and what the gate holds.
fn ends() -> ((DuplexStream, DuplexStream), (DuplexStream, DuplexStream)) {
    (duplex(1 << 16), duplex(1 << 16))
}

#[tokio::test]
async fn nothing_after_the_hello_leaves_before_a_good_answer() {
    let ((mut client, mut near), (mut far, mut server)) = ends();
    let hello = client_hello(&[0x0304], 0x0303, None);
    client.write_all(&[&hello[..], b"early data"].concat()).await.unwrap();
    let script = async {
        let mut seen = vec![0; hello.len()];
        server.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, hello);
        let mut more = [0; 1];
        let waited = tokio::time::timeout(std::time::Duration::from_millis(20), server.read(&mut more)).await;
        assert!(waited.is_err(), "early data is held");
        server.write_all(&server_hello(0x0304, false)).await.unwrap();
    };
    let (gate, ()) = tokio::join!(open(&mut near, BytesMut::new(), &mut far, WireVersion::TLS1_2), script);
    let gate = gate.unwrap();
    assert_eq!((&gate.to_server[..], gate.version), (&b"early data"[..], WireVersion::TLS1_3));
    assert_eq!(&gate.to_client[..], server_hello(0x0304, false));
}

#[tokio::test]
async fn a_retry_is_no_answer_and_the_second_one_counts() {
    for (second, passes) in [(0x0304, true), (0x0302, false)] {
        let ((mut client, mut near), (mut far, mut server)) = ends();
        let hello = client_hello(&[0x0304], 0x0303, None);
        let script = async {
            client.write_all(&hello).await.unwrap();
            let mut seen = vec![0; hello.len()];
            server.read_exact(&mut seen).await.unwrap();
            server.write_all(&server_hello(0x0304, true)).await.unwrap();
            let mut retry = vec![0; server_hello(0x0304, true).len()];
            client.read_exact(&mut retry).await.unwrap();
            client.write_all(&[&[20, 3, 3, 0, 1, 1], &hello[..]].concat()).await.unwrap();
            server.read_exact(&mut vec![0; hello.len() + 6]).await.unwrap();
            server.write_all(&server_hello(second, false)).await.unwrap();
        };
        let (gate, ()) = tokio::join!(open(&mut near, BytesMut::new(), &mut far, WireVersion::TLS1_2), script);
        assert_eq!(gate.is_ok(), passes, "{gate:?}");
    }
}

#[tokio::test]
async fn an_alert_of_the_server_reaches_the_client() {
    let ((mut client, mut near), (mut far, mut server)) = ends();
    let alert = [21, 3, 3, 0, 2, 2, 70];
    client.write_all(&client_hello(&[0x0304], 0x0303, None)).await.unwrap();
    server.write_all(&alert).await.unwrap();
    let ended = open(&mut near, BytesMut::new(), &mut far, WireVersion::TLS1_2).await;
    assert!(matches!(ended, Err(GateError::RefusedByServer)));
    let mut seen = [0; 7];
    client.read_exact(&mut seen).await.unwrap();
    assert_eq!(seen, alert);
}

#[tokio::test]
async fn an_alert_that_only_warns_is_passed_on_and_the_hello_after_it_is_checked() {
    for (version, passes) in [(0x0303, true), (0x0302, false)] {
        let ((mut client, mut near), (mut far, mut server)) = ends();
        // unrecognized_name
        let warning = [21, 3, 3, 0, 2, 1, 112];
        client.write_all(&client_hello(&[0x0303, 0x0302], 0x0303, None)).await.unwrap();
        server.write_all(&[&warning[..], &server_hello(version, false)].concat()).await.unwrap();
        let gate = open(&mut near, BytesMut::new(), &mut far, WireVersion::TLS1_2).await;
        assert_eq!(gate.is_ok(), passes, "{gate:?}");
        let mut seen = [0; 7];
        client.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, warning);
    }
}

#[tokio::test(start_paused = true)]
async fn a_gate_does_not_wait_for_ever() {
    let ((mut client, mut near), (mut far, _server)) = ends();
    client.write_all(&client_hello(&[0x0304], 0x0303, None)).await.unwrap();
    let ended = open(&mut near, BytesMut::new(), &mut far, WireVersion::TLS1_2).await;
    assert!(matches!(ended, Err(GateError::Timeout)));
}
