//! What every place for CA keys holds, run against each of them. The token is SoftHSM2's.

use super::pkcs11::{REFERENCE, TokenVault};
use super::sealed::{Cost, SEALED, SealedVault};
use isthmus_certs::vault::{Kept, KeyVault, PLAIN, PlainVault, VaultError, Vaults};
use isthmus_certs::{CertificateAuthority, ManualClock, PrivateKey, PublicKeyInfo, SpiffeId, TrustDomain};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

const NOW_MS: i64 = 1_800_000_000_000;
const CHEAP: Cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };
/// Set for the process that has a token, by the test that starts it.
const MODULE: &str = "ISTHMUS_TEST_PKCS11_MODULE";
const PIN: &str = "1234";

fn sealed(passphrase: &str) -> SealedVault {
    SealedVault::new(Zeroizing::new(passphrase.as_bytes().to_vec()), CHEAP)
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("shop.example").unwrap()
}

/// The whole life of a CA on this vault. `label` is what its files hold instead of a plain key.
fn contract(vault: Arc<dyn KeyVault>, label: &str) {
    let key = vault.generate("contract").unwrap();
    let signature = key.sign(b"message").unwrap();
    assert!(key.public().verifies(b"message", &signature));
    assert_ne!(vault.generate("contract").unwrap().public().as_point(), key.public().as_point());
    let kept = key.keep(None).unwrap();
    assert_eq!((kept.label.as_str(), key.kept_as()), (label, label));
    let again = vault.open(&kept, None).unwrap();
    assert_eq!(again.public().as_point(), key.public().as_point());
    assert!(key.public().verifies(b"more", &again.sign(b"more").unwrap()));
    assert!(PrivateKey::from_pkcs8(&kept.body).is_ok() == (label == PLAIN), "only a plain file holds a plain key");
    let damaged = Kept { label: label.to_string(), body: Zeroizing::new(kept.body[1..].to_vec()) };
    assert!(vault.open(&damaged, None).is_err());
    let foreign = Kept { label: "SOMETHING ELSE".to_string(), body: Zeroizing::new(vec![1]) };
    assert!(matches!(vault.open(&foreign, None), Err(VaultError::OtherKind { .. })));
    assert!(!format!("{key:?}{vault:?}").contains("1234"), "no secret in Debug");
    std::thread::scope(|scope| {
        for n in 0..4_u8 {
            let key = &key;
            scope.spawn(move || {
                (0..8).for_each(|m| assert!(key.public().verifies(&[n, m], &key.sign(&[n, m]).unwrap())))
            });
        }
    });
    a_ca_lives_in(vault, label);
}

fn a_ca_lives_in(vault: Arc<dyn KeyVault>, label: &str) {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at_ms(NOW_MS);
    let load = |vault: Arc<dyn KeyVault>| {
        CertificateAuthority::load_or_generate(dir.path(), &trust_domain(), vault, Arc::new(clock.clone()))
    };
    let first = load(vault.clone()).unwrap();
    let before = files(dir.path());
    let second = load(vault.clone()).unwrap();
    assert_eq!(first.bundle(), second.bundle());
    assert_eq!(files(dir.path()), before, "what is good is not written again");
    let id = SpiffeId::workload(&trust_domain(), "shop", "web").unwrap();
    let key = PublicKeyInfo::of(&PrivateKey::generate().unwrap());
    // Issuing verifies nothing; loading did, with a leaf made for it.
    second.issue(&key, &id, Duration::from_secs(60), &[]).unwrap();
    clock.advance(Duration::from_secs(200 * 86_400));
    assert!(second.renew_issuing_if_due().unwrap(), "a new issuing key is made in the vault");
    second.save(dir.path()).unwrap();
    load(vault).unwrap();
    for text in files(dir.path()) {
        assert!(text.contains(&format!("BEGIN {label}")), "{text}");
        assert_eq!(text.contains("BEGIN PRIVATE KEY"), label == PLAIN);
    }
}

fn files(dir: &Path) -> Vec<String> {
    ["root.pem", "issuing.pem"].map(|name| std::fs::read_to_string(dir.join(name)).unwrap()).into()
}

#[test]
fn plain_files_hold_the_contract() {
    contract(Arc::new(PlainVault), PLAIN);
}

#[test]
fn sealed_files_hold_the_contract() {
    contract(Arc::new(sealed("a long passphrase 1234")), SEALED);
}

#[test]
fn what_is_sealed_opens_with_its_passphrase_beside_its_certificate_and_unchanged_alone() {
    let vault = sealed("correct horse battery");
    let beside = vec![1, 2, 3].into();
    let kept = vault.generate("x").unwrap().keep(Some(&beside)).unwrap();
    assert!(vault.open(&kept, Some(&beside)).is_ok());
    assert!(matches!(sealed("correct horse batterz").open(&kept, Some(&beside)), Err(VaultError::Sealed)));
    assert!(matches!(vault.open(&kept, None), Err(VaultError::Sealed)));
    assert!(matches!(vault.open(&kept, Some(&vec![1, 2, 4].into())), Err(VaultError::Sealed)));
    for at in 0..kept.body.len() {
        let mut body = kept.body.clone();
        body[at] ^= 1;
        // Cost parameters too large to be honest are refused without being tried.
        assert!(vault.open(&Kept { label: SEALED.to_string(), body }, Some(&beside)).is_err(), "byte {at}");
    }
}

#[test]
fn keys_that_were_plain_are_sealed_at_the_next_start_and_moved_keys_are_still_opened() {
    let dir = tempfile::tempdir().unwrap();
    let load = |vault: Arc<dyn KeyVault>| {
        let clock = Arc::new(ManualClock::at_ms(NOW_MS));
        CertificateAuthority::load_or_generate(dir.path(), &trust_domain(), vault, clock)
    };
    let first = load(Arc::new(PlainVault)).unwrap();
    let second = load(Arc::new(sealed("correct horse battery"))).unwrap();
    assert_eq!(first.bundle(), second.bundle());
    assert!(files(dir.path()).iter().all(|text| text.contains("ISTHMUS SEALED KEY") && !text.contains(" PRIVATE KEY")));
    let refused = load(Arc::new(PlainVault)).unwrap_err().to_string();
    assert!(refused.contains("authority.keys"), "{refused}");
    let several = Vaults(vec![Arc::new(PlainVault), Arc::new(sealed("correct horse battery"))]);
    load(Arc::new(several)).unwrap();
    assert!(files(dir.path()).iter().all(|text| text.contains("ISTHMUS SEALED KEY")), "and not unsealed by that");
}

#[test]
fn a_passphrase_that_others_can_read_or_guess_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("passphrase");
    let write = |text: &str, mode| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        SealedVault::from_file(&path).err()
    };
    assert_eq!(write("correct horse battery\n", 0o600), None);
    assert!(write("correct horse battery\n", 0o640).unwrap().contains("chmod 600"));
    assert!(write("short\n\n\n\n\n\n\n\n\n\n", 0o600).unwrap().contains("12 bytes"));
}

/// SoftHSM2 finds its tokens by an environment variable, which only a child can be given: this test starts itself.
#[test]
fn a_token_holds_the_contract() {
    let places =
        ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/lib/pkcs11/libsofthsm2.so"];
    let Some(module) = places.iter().find(|path| Path::new(path).exists()) else {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "CI needs softhsm2");
        return eprintln!("SKIPPED: a CA's keys in a PKCS#11 token: not installed: softhsm2");
    };
    let dir = tempfile::tempdir().unwrap();
    let (tokens, config) = (dir.path().join("tokens"), dir.path().join("softhsm2.conf"));
    std::fs::create_dir(&tokens).unwrap();
    std::fs::write(&config, format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display())).unwrap();
    let run = |program: &Path, args: &[&str]| {
        let output =
            Command::new(program).env("SOFTHSM2_CONF", &config).env(MODULE, module).args(args).output().unwrap();
        assert!(output.status.success(), "{program:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let init = ["--init-token", "--free", "--label", "isthmus", "--pin", PIN, "--so-pin", "5678"];
    run(Path::new("softhsm2-util"), &init);
    let name = concat!(module_path!(), "::in_the_process_with_a_token");
    let name = name.split_once("::").unwrap().1;
    let said = run(&std::env::current_exe().unwrap(), &["--exact", name, "--nocapture"]);
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
fn in_the_process_with_a_token() {
    let Some(module) = std::env::var_os(MODULE) else { return };
    let open = |label: &str, pin: &str| TokenVault::open(module.as_ref(), label, Zeroizing::new(pin.to_string()));
    assert!(open("isthmus", "0000").unwrap_err().contains("is the HSM up, and the PIN right?"));
    assert!(open("other", PIN).unwrap_err().contains("no such token"));
    let vault = open("isthmus", PIN).unwrap();
    contract(Arc::new(vault.clone()), REFERENCE);
    a_store_hangs_on(vault.clone());
    // From files into the token: the old CA is still opened, the next one's keys are made in the token.
    let several: Arc<dyn KeyVault> = Arc::new(Vaults(vec![Arc::new(vault), Arc::new(PlainVault)]));
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at_ms(NOW_MS));
    CertificateAuthority::generate(&trust_domain(), clock.clone()).unwrap().save(&dir.path().join("ca")).unwrap();
    let load = || super::Authorities::load(dir.path(), &trust_domain(), several.clone(), clock.clone()).unwrap();
    let authorities = load();
    authorities.start().unwrap();
    authorities.exchange().unwrap();
    assert_eq!(load().bundle(), authorities.bundle(), "after a restart as well");
    let active = std::fs::read_dir(dir.path().join("ca")).unwrap().map(|entry| entry.unwrap().path());
    let active = active.into_iter().find(|path| path.is_dir()).unwrap();
    assert!(files(&active).iter().all(|text| text.contains(REFERENCE) && !text.contains("PRIVATE")));
}

/// The data key of an encrypted store, wrapped by a key that never leaves the token.
fn a_store_hangs_on(vault: TokenVault) {
    use crate::store::{Codec, EmbeddedStore, Store, Wrap};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let wrap = Wrap::of_token(vault);
    let open = |wrap: &Wrap| EmbeddedStore::open_with(&path, Codec::encrypted(wrap.clone()));
    assert!(open(&wrap).unwrap().swap_fact("f", None, Some(&serde_json::json!("kept"))).unwrap());
    assert_eq!(open(&wrap).unwrap().fact("f").unwrap(), Some(serde_json::json!("kept")));
    let passphrase = Wrap::cheap("correct horse battery");
    assert!(open(&passphrase).unwrap_err().to_string().contains("pkcs11"));
    EmbeddedStore::rewrap(&path, &wrap, &passphrase).unwrap();
    assert!(open(&wrap).is_err());
    assert_eq!(open(&passphrase).unwrap().fact("f").unwrap(), Some(serde_json::json!("kept")));
}
