use super::*;

#[test]
fn only_plain_files_are_taken_from_the_state_directory() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    fs::create_dir_all(state.join("somebody-elses")).unwrap();
    fs::write(state.join("identity.key"), "key").unwrap();
    let text = empty_state(&state).unwrap_err().text();
    assert!(text.contains("remove it by hand"), "{text}");
    assert!(!state.join("identity.key").exists() && state.join("somebody-elses").exists());
}

#[tokio::test]
async fn leaving_before_joining_is_no_fault_for_undo() {
    let dir = tempfile::tempdir().unwrap();
    undo(dir.path()).await.unwrap();
    assert!(dir.path().exists());
}
