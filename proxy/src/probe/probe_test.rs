//! Each way of asking, against real sockets and processes; the judge by itself.

use super::*;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn failed(reason: &str) -> Result<(), String> {
    Err(reason.to_owned())
}

fn health(ready: bool, reason: &str) -> Option<Health> {
    Some(Health { ready, reason: reason.to_owned() })
}

#[test]
fn the_first_answer_decides_and_later_ones_in_a_row() {
    let mut judge = Judge::new(3, 2);
    assert_eq!(Some(judge.health()), health(false, "not asked yet"));
    assert_eq!(judge.hear(Ok(())), health(true, ""));
    assert_eq!(judge.hear(failed("a")), None);
    assert_eq!(judge.hear(failed("b")), None);
    assert_eq!(judge.hear(Ok(())), None, "one good answer begins the count anew");
    assert_eq!([judge.hear(failed("a")), judge.hear(failed("b"))], [None, None]);
    assert_eq!(judge.hear(failed("c")), health(false, "c"));
    assert_eq!(judge.hear(failed("d")), None);
    assert_eq!(judge.hear(Ok(())), None);
    assert_eq!(judge.hear(Ok(())), health(true, ""));
    let mut judge = Judge::new(3, 2);
    assert_eq!(judge.hear(failed("down")), health(false, "down"), "the reason is told at once");
}

#[test]
fn a_status_line_is_read_strictly() {
    for (line, expected) in [
        ("HTTP/1.1 200 OK\r\n", Some(200)),
        ("HTTP/1.0 503\r\n", Some(503)),
        ("HTTP/1.1 302 Found", Some(302)),
        ("HTTP/1.1 2000 OK\r\n", None),
        ("HTTP/1.1 20", None),
        ("HTTP/2 200\r\n", None),
        ("+OK ready\r\n", None),
        ("", None),
    ] {
        assert_eq!(http::status(line.as_bytes()), expected, "{line:?}");
    }
}

fn probe(how: How) -> Probe {
    Probe { how, interval: Duration::from_millis(10), timeout: Duration::from_secs(5), failures: 1, successes: 1 }
}

async fn asked(how: How) -> Result<(), String> {
    ask(&probe(how), DialOptions::default()).await
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

#[tokio::test]
async fn tcp_and_http_are_asked_of_the_app() {
    let (listener, at) = listener().await;
    asked(How::Tcp(at)).await.unwrap();
    let serve = async {
        for answer in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 503 Busy\r\n\r\n", "220 mail\r\n", ""] {
            // The one that TCP alone asked for comes first, and says nothing.
            let (mut stream, request) = loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                if read > 0 {
                    break (stream, String::from_utf8_lossy(&request[..read]).into_owned());
                }
            };
            assert!(request.starts_with("GET /ready?now HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let ask = async {
        let how = || How::Http { at, path: "/ready?now".to_owned() };
        asked(how()).await.unwrap();
        assert!(asked(how()).await.unwrap_err().ends_with(": 503"));
        assert!(asked(how()).await.unwrap_err().ends_with("is no HTTP"));
        assert!(asked(how()).await.unwrap_err().ends_with("is no HTTP"));
    };
    tokio::join!(serve, ask);
    drop(listener);
    assert!(asked(How::Tcp(at)).await.is_err(), "nobody listens");
}

#[tokio::test]
async fn an_app_that_does_not_answer_is_not_waited_for() {
    let (_listener, at) = listener().await;
    let slow = Probe { timeout: Duration::from_millis(50), ..probe(How::Http { at, path: "/".to_owned() }) };
    assert!(ask(&slow, DialOptions::default()).await.unwrap_err().contains("no answer within 50 ms"));
}

#[tokio::test]
async fn a_command_answers_by_its_exit_and_gets_neither_shell_nor_environment() {
    let run = |program: &str, arguments: &[&str]| How::Command {
        program: program.into(),
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
    };
    asked(run("/bin/true", &[])).await.unwrap();
    assert!(asked(run("/bin/false", &[])).await.unwrap_err().contains("exit status: 1"));
    assert!(asked(run("/nowhere/to/be/found", &[])).await.is_err());
    // Not split, not expanded.
    asked(run("/usr/bin/test", &["$HOME; exit 1", "=", "$HOME; exit 1"])).await.unwrap();
    // The test's own environment has more than PATH and what a shell sets by itself.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    asked(run("/bin/sh", &["-c", "test -z \"$CARGO_MANIFEST_DIR\" && test -n \"$PATH\""])).await.unwrap();
}

#[tokio::test]
async fn a_command_that_takes_too_long_ends_with_all_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    // Its child outlives a parent that is killed alone.
    let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
    let how = How::Command { program: "/bin/sh".into(), arguments: vec!["-c".to_owned(), script] };
    let probe = Probe { timeout: Duration::from_secs(2), ..probe(how) };
    assert!(ask(&probe, DialOptions::default()).await.unwrap_err().contains("no answer"));
    let child: u32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    let state = || std::fs::read_to_string(format!("/proc/{child}/stat")).ok();
    let dead = || state().is_none_or(|stat| stat.contains(") Z "));
    for _ in 0..200 {
        if dead() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still there: {:?}", state());
}

#[tokio::test]
async fn what_it_hears_is_told_on_until_it_stops() {
    let (listener, at) = listener().await;
    let (told, mut heard) = watch::channel(None);
    let stop = CancellationToken::new();
    let task = tokio::spawn(keep(probe(How::Tcp(at)), DialOptions::default(), told, stop.clone()));
    heard.wait_for(|health| health.as_ref().is_some_and(|health| health.ready)).await.unwrap();
    drop(listener);
    let down = heard.wait_for(|health| health.as_ref().is_some_and(|health| !health.ready)).await.unwrap().clone();
    assert!(down.unwrap().reason.contains("127.0.0.1"));
    stop.cancel();
    task.await.unwrap();
    assert!(heard.changed().await.is_err());
}
