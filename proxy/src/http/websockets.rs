//! Whether an app that is called over HTTP/2 takes WebSockets. RFC 8441 §3 lets a client ask (extended CONNECT) only after
//! the server's SETTINGS allowed it; one that does not know the form may take the request for a plain CONNECT.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use tokio::sync::Mutex;

/// The app is on the same host: one that answers no ping for so long answers nothing.
const SETTINGS_DEADLINE: Duration = Duration::from_secs(5);

/// The way to find out, one per connection. A ping's answer comes after the SETTINGS that were sent before it.
#[derive(Clone)]
pub(super) struct Settings(Rc<Mutex<Option<PingPong>>>);

impl Settings {
    /// Takes the connection's one ping.
    pub(super) fn of<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
        connection: &mut h2::client::Connection<T, Bytes>,
    ) -> Settings {
        Settings(Rc::new(Mutex::new(connection.ping_pong())))
    }

    /// Asked only for a request that needs it: all others leave before the app's SETTINGS are there.
    pub(super) async fn allow_websockets(&self, sender: &SendRequest<Bytes>) -> bool {
        if sender.is_extended_connect_protocol_enabled() {
            return true;
        }
        // Whoever comes meanwhile waits for the same answer.
        let mut ping = self.0.lock().await;
        if let Some(mut ping) = ping.take() {
            // Without an answer nothing is allowed.
            let _ = tokio::time::timeout(SETTINGS_DEADLINE, ping.ping(Ping::opaque())).await;
        }
        sender.is_extended_connect_protocol_enabled()
    }
}
