//! Copying between two TCP connections.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Copied, DialOptions, copy_both, dial, reset};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = dial(listener.local_addr().unwrap(), DialOptions::default()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

#[tokio::test]
async fn each_direction_ends_for_itself_and_every_byte_is_counted() {
    let ((mut left, mut near), (mut far, mut right)) = (pair().await, pair().await);
    let copied = Copied::default();
    let script = async {
        left.write_all(&[7; 100_000]).await.unwrap();
        left.shutdown().await.unwrap();
        let mut got = Vec::new();
        right.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), 100_000);
        // Our side has ended; the other still talks.
        right.write_all(b"still here").await.unwrap();
        right.shutdown().await.unwrap();
        got.clear();
        left.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"still here");
    };
    let (result, ()) = tokio::join!(copy_both(&mut near, &mut far, &copied), script);
    result.unwrap();
    assert_eq!((copied.sent.get(), copied.received.get()), (100_000, 10));
}

#[tokio::test]
async fn a_reset_of_one_side_is_a_reset_of_the_other() {
    let ((mut left, mut near), (mut far, right)) = (pair().await, pair().await);
    let copying = async {
        let copied = Copied::default();
        let result = copy_both(&mut near, &mut far, &copied).await;
        drop((near, far));
        result
    };
    let script = async {
        reset(right);
        left.read(&mut [0; 1]).await
    };
    let (copied, seen) = tokio::join!(copying, script);
    assert!(copied.is_err());
    assert_eq!(seen.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}
