//! Reading the metadata service's answer. Whole enrolments are in control-api's e2e tests and in the suite `joining`.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Answers one request with `body`; returns what was asked.
async fn metadata_service(status: &str, body: &str) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    let served = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 4096];
        let count = tcp.read(&mut asked).await.unwrap();
        tcp.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&asked[..count]).into_owned()
    });
    (address, served)
}

#[tokio::test]
async fn the_document_is_asked_for_with_the_nonce_and_the_header_that_the_service_wants() {
    let (address, asked) = metadata_service("200 OK", r#"{"encoding":"pkcs7","signature":"AQID\nBA=="}"#).await;
    let document = attested_document(address, "0123456789", DialOptions::default()).await.unwrap();
    assert_eq!(document, [1, 2, 3, 4]);
    let asked = asked.await.unwrap().to_ascii_lowercase();
    assert!(asked.starts_with("get /metadata/attested/document?api-version=2021-02-01&nonce=0123456789 http/1.1"));
    assert!(asked.contains("\r\nmetadata: true\r\n"), "{asked}");
}

#[tokio::test]
async fn what_is_no_document_is_named() {
    for (status, body, expected) in [
        ("410 Gone", "{}", "410 Gone"),
        ("200 OK", "<html>", "no attested document"),
        ("200 OK", r#"{"encoding":"jwt","signature":""}"#, "in jwt"),
        ("200 OK", r#"{"encoding":"pkcs7","signature":"*"}"#, "no attested document"),
    ] {
        let (address, _asked) = metadata_service(status, body).await;
        let error = attested_document(address, "1", DialOptions::default()).await.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let (address, _asked) = metadata_service("200 OK", "").await;
    assert!(attested_document(address, "1&a=b", DialOptions::default()).await.unwrap_err().contains("ten digits"));
}

proptest! {
    #[test]
    fn any_answer_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_attested(&bytes);
    }
}
