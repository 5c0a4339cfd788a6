//! A backup as somebody else may have written it: read or refused; what is read is written and read again the same, and no
//! file of it lies outside of the directories that a backup may fill.

use isthmus_control::backup::Archive;

pub fn run(bytes: &[u8]) {
    let _ = Archive::read("fuzz", bytes, None);
    let Ok(archive) = Archive::read_lines("fuzz", bytes) else { return };
    for (path, _) in &archive.files {
        let inside = path.starts_with("ca") || path.starts_with("audit");
        assert!(inside && !path.components().any(|part| part.as_os_str() == ".."), "{}", path.display());
    }
    let written = archive.write(None).expect("what was read can be written");
    assert_eq!(Archive::read("fuzz", &written, None).expect("and read again"), archive);
}
