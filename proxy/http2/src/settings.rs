//! What one connection may ask of us, by who is at its other end.

/// What one HTTP/2 connection may ask of us.
#[derive(Debug, Clone, Copy)]
pub struct Http2Settings {
    pub max_streams: u32,
    pub max_header_bytes: u32,
    pub stream_window: u32,
    pub connection_window: u32,
    pub max_frame: u32,
    /// Streams that the caller reset before we looked at them; more at once is abuse (CVE-2023-44487) and ends the
    /// connection.
    pub pending_resets: usize,
    /// Bytes that wait for the transport. Whoever has more waits: a small answer is not to stand behind megabytes.
    pub backlog: usize,
    /// It is one of thousands that are idle nearly all of the time: nothing is kept that only saves time or bytes (6 KiB to
    /// make heads short that are said again, room for the next requests).
    pub frugal: bool,
}

/// What an HTTP/1 head may hold (80 KiB), counted as HTTP/2 does (32 bytes more per field), and what sidecars add.
pub const MAX_HEADER_BYTES: u32 = 96 * 1024;

impl Http2Settings {
    /// Towards apps: default frames, windows of a local connection.
    pub const APP: Http2Settings = Http2Settings {
        max_streams: 1_000,
        max_header_bytes: MAX_HEADER_BYTES,
        stream_window: 1 << 20,
        connection_window: 4 << 20,
        max_frame: 16 * 1024,
        pending_resets: 20,
        backlog: 1 << 20,
        frugal: false,
    };
    /// Between sidecars: one stream fills 1 Gbit/s at 30 ms; frames of 1 MiB cost a third less CPU than 16 KiB ones.
    pub const MESH: Http2Settings = Http2Settings {
        // Two connections carry as many idle tunnels as a process usually has descriptors for (20,000).
        max_streams: 10_000,
        max_header_bytes: MAX_HEADER_BYTES,
        stream_window: 4 << 20,
        connection_window: 16 << 20,
        max_frame: 1 << 20,
        // Many apps share the connection: that one gives up many calls at once must not end it for all.
        pending_resets: 2_000,
        backlog: 1 << 20,
        frugal: false,
    };

    /// The same for the h2 crate, which speaks with apps.
    pub fn server(self) -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(self.max_streams)
            .max_pending_accept_reset_streams(self.pending_resets)
            .max_header_list_size(self.max_header_bytes)
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_frame_size(self.max_frame)
            .max_send_buffer_size(self.max_frame as usize)
            // WebSockets (RFC 8441).
            .enable_connect_protocol();
        builder
    }

    pub fn client(self) -> h2::client::Builder {
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            // Until the peer's SETTINGS are read; it allows more.
            .initial_max_send_streams(100)
            .max_header_list_size(self.max_header_bytes)
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_frame_size(self.max_frame)
            .max_send_buffer_size(self.max_frame as usize);
        builder
    }
}
