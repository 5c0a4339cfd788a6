//! Seals the files of the state directory, so that a copy of them is of use on no other machine: AES-256-GCM under a key
//! that `systemd-creds` keeps, by the TPM where the machine has one. Where it cannot, files are plain with mode 0600, and
//! that is said.

use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use zeroize::Zeroizing;

use super::files::write_private;

const KEY_FILE: &str = "state.key";
/// What the key is called; a credential of another name is refused by systemd-creds itself.
const NAME: &str = "isthmus-state";
const PROGRAM: &str = "systemd-creds";
/// A TPM takes a second at most; a start must not hang on one that is broken.
const DEADLINE: Duration = Duration::from_secs(10);
const KEY: usize = 32;
/// Begins every sealed file.
const MAGIC: &[u8] = b"isthmus sealed 1\0";

/// How files are kept.
pub enum Seal {
    /// As they are, with mode 0600; and why.
    Plain(String),
    /// Under this key.
    Key(Zeroizing<[u8; KEY]>),
}

impl Default for Seal {
    fn default() -> Seal {
        Seal::Plain("sealing is turned off".to_owned())
    }
}

impl Seal {
    /// The key of an earlier start, or a new one. An error only where there is a key and it cannot be had: what was sealed
    /// with it is lost on this machine.
    pub async fn find(dir: &Path) -> Result<Seal, String> {
        let path = dir.join(KEY_FILE);
        match tokio::fs::read(&path).await {
            Ok(sealed) => {
                let key = run(&["decrypt", "--name", NAME, "-", "-"], &sealed).await.and_then(|text| read_key(&text));
                key.map(Seal::Key).map_err(|why| {
                    format!(
                        "{}: {why}. It was sealed on another machine, or this one's TPM was cleared: empty the state directory and join again with a new token",
                        path.display()
                    )
                })
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(make(dir).await.unwrap_or_else(Seal::Plain)),
            Err(e) => Err(format!("{}: {e}", path.display())),
        }
    }

    /// For status.
    pub fn in_words(&self) -> String {
        match self {
            Seal::Plain(why) => format!("plain files with mode 0600: {why}"),
            Seal::Key(_) => format!("sealed by {PROGRAM}, by the TPM where there is one"),
        }
    }

    /// None: it is to be written as it is.
    pub(super) fn close(&self, name: &str, content: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let Seal::Key(key) = self else { return Ok(None) };
        let mut nonce = [0; NONCE_LEN];
        let failed = |_| "cannot be sealed: the system's cryptography failed".to_owned();
        aws_lc_rs::rand::fill(&mut nonce).map_err(failed)?;
        let mut text = content.to_vec();
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        aead(key).map_err(failed)?.seal_in_place_append_tag(nonce_used, Aad::from(name), &mut text).map_err(failed)?;
        Ok(Some([MAGIC, &nonce, &text].concat()))
    }

    pub(super) fn open(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
        let Seal::Key(key) = self else {
            return Err(format!("{name} is sealed, and sealing is not to be had: {}", self.in_words()));
        };
        let damaged = || format!("{name} is damaged, or was sealed on another machine");
        let rest = sealed.strip_prefix(MAGIC).ok_or_else(damaged)?;
        let (nonce, text) = rest.split_at_checked(NONCE_LEN).ok_or_else(damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged())?;
        let mut text = Zeroizing::new(text.to_vec());
        let length = {
            let key = aead(key).map_err(|_| damaged())?;
            key.open_in_place(nonce, Aad::from(name), &mut text).map_err(|_| damaged())?.len()
        };
        text.truncate(length);
        Ok(text)
    }
}

fn aead(key: &[u8; KEY]) -> Result<LessSafeKey, aws_lc_rs::error::Unspecified> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new)
}

async fn make(dir: &Path) -> Result<Seal, String> {
    let mut key = Zeroizing::new([0; KEY]);
    aws_lc_rs::rand::fill(&mut *key).map_err(|_| "no random key".to_owned())?;
    let text = Zeroizing::new(STANDARD.encode(*key));
    let sealed = run(&["encrypt", "--name", NAME, "-", "-"], text.as_bytes()).await?;
    // Believed only once it has come back: what is sealed next is worth an identity.
    let back = run(&["decrypt", "--name", NAME, "-", "-"], &sealed).await.and_then(|text| read_key(&text))?;
    if *back != *key {
        return Err(format!("{PROGRAM} gave another key back"));
    }
    write_private(dir, KEY_FILE, &sealed)?;
    Ok(Seal::Key(key))
}

fn read_key(text: &[u8]) -> Result<Zeroizing<[u8; KEY]>, String> {
    let bytes = Zeroizing::new(STANDARD.decode(text.trim_ascii()).map_err(|_| "it holds no key".to_owned())?);
    let key: [u8; KEY] = bytes.as_slice().try_into().map_err(|_| "it holds no key".to_owned())?;
    Ok(Zeroizing::new(key))
}

/// The secret goes in and comes out by pipes, never by arguments.
async fn run(arguments: &[&str], input: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut command = Command::new(PROGRAM);
    if !rustix::process::geteuid().is_root() {
        // The machine's key is root's; since systemd 256 a service asks for its user (systemd-creds(1)).
        command.arg("--user");
    }
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => format!("{PROGRAM} is not installed"),
        _ => format!("{PROGRAM}: {e}"),
    })?;
    let mut stdin = child.stdin.take().ok_or_else(|| format!("{PROGRAM} takes no input"))?;
    let work = async {
        // A program that gives up early says why.
        let _ = stdin.write_all(input).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let done = tokio::time::timeout(DEADLINE, work).await;
    let output = done.map_err(|_| format!("{PROGRAM} took longer than {DEADLINE:?}"))?;
    let output = output.map_err(|e| format!("{PROGRAM}: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().last().unwrap_or_default().trim().chars().take(200).collect::<String>();
        return Err(format!(
            "{PROGRAM}: {}{}",
            output.status,
            if said.is_empty() { said } else { format!(": {said}") }
        ));
    }
    Ok(Zeroizing::new(output.stdout))
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_words())
    }
}

#[cfg(test)]
#[path = "seal_test.rs"]
mod seal_test;
