//! A call's deadline: read in one way only, and never longer than its digits can say.

use isthmus_http2::grpc_timeout;

pub fn run(bytes: &[u8]) {
    let Some(timeout) = grpc_timeout(bytes) else { return };
    assert!(bytes.len() <= 9 && timeout.as_secs() <= 99_999_999 * 3600);
    let (digits, unit) = bytes.split_at(bytes.len() - 1);
    assert!(digits.iter().all(u8::is_ascii_digit) && b"HMSmun".contains(&unit[0]));
}
