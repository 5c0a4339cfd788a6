use tokio::net::TcpListener;

use super::*;

/// Answers one connection after the other with the next of `answers`.
async fn proxy(answers: &'static [&'static str]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 256];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /ready HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    port
}

#[tokio::test]
async fn waits_through_no_to_yes() {
    let port = proxy(&["HTTP/1.1 503 Service Unavailable\r\n\r\nnot-ready", "HTTP/1.1 200 OK\r\n\r\nready"]).await;
    wait_at(port, Duration::from_secs(20)).await.unwrap();
}

#[tokio::test]
async fn says_what_the_proxy_said_last() {
    let port = proxy(&["HTTP/1.1 503 Service Unavailable\r\n\r\nnot-ready: no certificate yet"]).await;
    let (ready, said) = ask(port).await.unwrap();
    assert!(!ready);
    assert_eq!(said, "not-ready: no certificate yet");
}
