//! Hears of every change of our table by anybody (NFNLGRP_NFTABLES), also by ourselves. Where the kernel cannot protect
//! the rules this is what brings them back at once.

use std::io;

use isthmus_netlink::{Family, Listener, messages};
use tokio::io::unix::AsyncFd;

use super::error::CaptureError;
use super::message::changed_table;
use super::plan::TABLE;

const GROUP_NFTABLES: u32 = 7;

/// The changes of the network namespace it was opened in.
#[derive(Debug)]
pub struct Changes(AsyncFd<Listener>);

impl Changes {
    /// Hears from now on. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where the kernel has no nf_tables.
    pub fn open() -> Result<Changes, CaptureError> {
        let listener = Listener::open(Family::Netfilter, GROUP_NFTABLES).map_err(CaptureError::Changes)?;
        #[expect(
            deprecated,
            reason = "sound: a Listener owns its descriptor as long as it lives; the other way is unsafe"
        )]
        let listener = AsyncFd::new(listener);
        listener.map(Changes).map_err(CaptureError::Changes)
    }

    /// Waits until our table has been changed. Several changes may be one. Safe to cancel.
    pub async fn next(&mut self) {
        loop {
            // Fails only where the runtime is ending; then nobody asks again.
            let Ok(mut ready) = self.0.readable().await else { return std::future::pending().await };
            // At most what is queued, else a rival that never stops would keep us here.
            let mut ours = false;
            for _ in 0..MOST_AT_ONCE {
                match ready.get_inner().receive() {
                    Ok(Some(datagram)) => ours |= is_ours(&datagram),
                    Ok(None) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // ENOBUFS: more happened than was heard.
                    Err(_) => ours = true,
                }
            }
            if ours {
                return;
            }
        }
    }
}

const MOST_AT_ONCE: usize = 256;

fn is_ours(datagram: &[u8]) -> bool {
    messages(datagram).any(|message| match message {
        Ok(message) => changed_table(message.kind, message.payload).as_deref() == Some(TABLE),
        Err(_) => true,
    })
}
