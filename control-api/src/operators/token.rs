//! The text of a robot's token and of an invitation: where the operators' port is, whom to trust there, and the secret.
//!
//! It is a join token under another prefix, so that neither is ever taken for the other: what enrols a workload makes no
//! operator.

use isthmus_certs::{JoinToken, TokenError};
use zeroize::Zeroizing;

const PREFIX: &str = "isthmus-operator1.";
const JOIN_PREFIX: &str = "isthmus1.";

/// The one line to hand over.
pub fn format(token: &JoinToken) -> Zeroizing<String> {
    let text = token.format();
    let body = text.strip_prefix(JOIN_PREFIX).unwrap_or_default();
    // Room for all of it at once: a String that grows leaves copies of the secret behind.
    let mut line = Zeroizing::new(String::with_capacity(PREFIX.len() + body.len()));
    line.push_str(PREFIX);
    line.push_str(body);
    line
}

/// Reads it; surrounding white space, as files have it, is ignored.
pub fn parse(text: &str) -> Result<JoinToken, TokenError> {
    let body = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
    let mut line = Zeroizing::new(String::with_capacity(JOIN_PREFIX.len() + body.len()));
    line.push_str(JOIN_PREFIX);
    line.push_str(body);
    JoinToken::parse(&line)
}
