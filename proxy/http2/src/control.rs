//! Frames about streams and the connection rather than on them: resets, SETTINGS, PING, GOAWAY, windows.

use std::sync::atomic::Ordering;

use h2::Reason;

use super::error::StreamError;
use super::frame::{self, ACK, HEAD, Head, MAX_ID, PING, SETTING, SETTINGS, Setting};
use super::state::{ASK, Asked, LAST_CALL, Role, State};

/// Settings in one frame. Seven are known; peers grease with a few more.
const MAX_SETTINGS: usize = 128;
/// Changes of the windows of streams that are there: each is looked at every time. A link's bandwidth is learnt in ten.
const MAX_WINDOW_CHANGES: usize = 1_000;

impl State {
    pub(super) fn reset_by_peer(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let reason = Reason::from(frame::number(payload)?);
        let Some(key) = self.streams.key_of(head.stream) else { return self.was(head.stream) };
        let Some(stream) = self.streams.get_mut(key) else { return Ok(()) };
        stream.fail(StreamError::Reset { reason, remote: true });
        if !stream.accepted {
            self.pending_resets += 1;
            // CVE-2023-44487.
            if self.pending_resets > self.settings.pending_resets {
                return Err(Reason::ENHANCE_YOUR_CALM);
            }
        }
        self.settle(key);
        Ok(())
    }

    pub(super) fn peer_settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        if head.stream != 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if head.has(ACK) {
            if !payload.is_empty() {
                return Err(Reason::FRAME_SIZE_ERROR);
            }
            self.acknowledged();
            return Ok(());
        }
        if payload.len() > MAX_SETTINGS * SETTING {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        let mut window = None;
        for setting in frame::settings(payload) {
            match setting? {
                // Of several the last counts: every stream is visited once a frame.
                Some(Setting::StreamWindow(last)) => window = Some(i64::from(last)),
                Some(setting) => self.apply(setting)?,
                None => {}
            }
        }
        if let Some(window) = window {
            self.peer_window_is(window)?;
        }
        self.reply(SETTINGS, &[]);
        Ok(())
    }

    /// An answer to a frame; who sends those and does not read the answers is not read either.
    fn reply(&mut self, kind: u8, payload: &[u8]) {
        self.out.frame(kind, ACK, 0, payload);
        self.replies += HEAD + payload.len();
    }

    fn apply(&mut self, setting: Setting) -> Result<(), Reason> {
        match setting {
            Setting::TableSize(size) => self.encoder.resize(size as usize),
            Setting::EnablePush(true) if self.role == Role::Client => return Err(Reason::PROTOCOL_ERROR),
            Setting::MaxStreams(most) => {
                self.facts.most_streams.store(most as usize, Ordering::Relaxed);
                self.open_waiting();
            }
            Setting::MaxFrame(most) => self.peer_frame = most as usize,
            Setting::StreamWindow(_)
            | Setting::EnablePush(_)
            | Setting::MaxHeaders(_)
            | Setting::ConnectProtocol(_) => {}
        }
        Ok(())
    }

    /// RFC 9113 §6.9.2: of the streams that are there as well.
    fn peer_window_is(&mut self, window: i64) -> Result<(), Reason> {
        let more = window - self.peer_window;
        if more == 0 {
            return Ok(());
        }
        self.peer_window = window;
        self.window_changes += 1;
        if self.window_changes > MAX_WINDOW_CHANGES {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        for key in self.streams.keys() {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            stream.send_window += more;
            if stream.send_window > i64::from(MAX_ID) {
                return Err(Reason::FLOW_CONTROL_ERROR);
            }
            self.serve(key);
        }
        Ok(())
    }

    /// Our last SETTINGS count from here on.
    fn acknowledged(&mut self) {
        let Some(window) = self.new_window.take() else { return };
        let more = window - self.own_window;
        self.own_window = window;
        for key in self.streams.keys() {
            if let Some(stream) = self.streams.get_mut(key) {
                stream.recv_window += more;
            }
        }
    }

    pub(super) fn ping(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        if head.stream != 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let payload: [u8; 8] = payload.try_into().map_err(|_| Reason::FRAME_SIZE_ERROR)?;
        if !head.has(ACK) {
            self.reply(PING, &payload);
        } else if payload == LAST_CALL && self.goaway == Some(MAX_ID) {
            self.goaway(self.last_id, Reason::NO_ERROR);
        } else if self.asked == Asked::Yes && payload == ASK {
            self.asked = Asked::Answered;
        }
        Ok(())
    }

    pub(super) fn peer_goes(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        if head.stream != 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let (last, rest) = payload.split_first_chunk::<4>().ok_or(Reason::FRAME_SIZE_ERROR)?;
        let (reason, _) = rest.split_first_chunk::<4>().ok_or(Reason::FRAME_SIZE_ERROR)?;
        let last = u32::from_be_bytes(*last) & MAX_ID;
        let reason = Reason::from(u32::from_be_bytes(*reason));
        self.peer_goaway = true;
        self.facts.closed.store(true, Ordering::Relaxed);
        if self.role == Role::Server {
            return Ok(());
        }
        // Not one of these was looked at (RFC 9113 §6.8).
        self.opening.clear();
        for key in self.streams.keys() {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            if stream.id == 0 || stream.id > last {
                stream.fail(StreamError::GoAway { reason, remote: true });
                self.settle(key);
            }
        }
        Ok(())
    }

    pub(super) fn window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let more = i64::from(frame::number(payload)? & MAX_ID);
        if head.stream == 0 {
            self.send_window += more;
            self.serve_waiting();
            return match (more, self.send_window > i64::from(MAX_ID)) {
                (0, _) => Err(Reason::PROTOCOL_ERROR),
                (_, true) => Err(Reason::FLOW_CONTROL_ERROR),
                (_, false) => Ok(()),
            };
        }
        let Some(key) = self.streams.key_of(head.stream) else { return self.was(head.stream) };
        let Some(stream) = self.streams.get_mut(key) else { return Ok(()) };
        stream.send_window += more;
        if more == 0 {
            return self.offence(key, Reason::PROTOCOL_ERROR);
        }
        if stream.send_window > i64::from(MAX_ID) {
            return self.offence(key, Reason::FLOW_CONTROL_ERROR);
        }
        self.serve(key);
        Ok(())
    }
}
