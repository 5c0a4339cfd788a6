//! Handmade hellos for tests.

use super::server_hello::HELLO_RETRY_RANDOM;

fn record(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![22, 3, 1];
    bytes.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(message);
    bytes
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
    message.extend_from_slice(body);
    message
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(content);
    bytes
}

/// A handshake message in records of `size` bytes each.
pub(crate) fn in_records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(record).collect()
}

/// The ClientHello message. Versions above 1.2 go into `supported_versions`; with none above, the extension is left out.
pub(crate) fn client_hello_message(versions: &[u16], legacy: u16, name: Option<&str>) -> Vec<u8> {
    let mut body = legacy.to_be_bytes().to_vec();
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 0x01, 1, 0]);
    let mut extensions = Vec::new();
    if let Some(name) = name {
        let length = u16::try_from(name.len()).unwrap();
        let mut entry = (length + 3).to_be_bytes().to_vec();
        entry.push(0);
        entry.extend(length.to_be_bytes());
        entry.extend(name.as_bytes());
        extensions.extend(extension(0, &entry));
    }
    extensions.extend(extension(16, b"\x00\x03\x02h2"));
    // Always as long, so that tests know how long a hello is.
    let mut list = vec![u8::try_from(versions.len() * 2).unwrap()];
    list.extend(versions.iter().flat_map(|version| version.to_be_bytes()));
    extensions.extend(extension(43, &list));
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    handshake(1, &body)
}

pub(crate) fn client_hello(versions: &[u16], legacy: u16, name: Option<&str>) -> Vec<u8> {
    record(&client_hello_message(versions, legacy, name))
}

pub(crate) fn server_hello_message(version: u16, retry: bool) -> Vec<u8> {
    let mut body = version.min(0x0303).to_be_bytes().to_vec();
    body.extend(if retry { HELLO_RETRY_RANDOM } else { [9; 32] });
    body.push(0);
    body.extend([0x13, 0x01, 0]);
    let extensions = if version > 0x0303 { extension(43, &version.to_be_bytes()) } else { Vec::new() };
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    handshake(2, &body)
}

pub(crate) fn server_hello(version: u16, retry: bool) -> Vec<u8> {
    record(&server_hello_message(version, retry))
}
