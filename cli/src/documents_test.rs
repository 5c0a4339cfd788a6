use super::*;

#[test]
fn a_directory_is_read_in_name_order_and_not_below() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("b.yml"), "b").unwrap();
    fs::write(dir.path().join("a.yaml"), "a").unwrap();
    fs::write(dir.path().join("notes.txt"), "no").unwrap();
    fs::create_dir(dir.path().join("deep.yaml")).unwrap();
    fs::write(dir.path().join("deep.yaml/c.yaml"), "c").unwrap();
    let texts: Vec<String> = read(&[dir.path().to_owned()]).unwrap().into_iter().map(|d| d.yaml).collect();
    assert_eq!(texts, ["a", "b"]);
}

#[test]
fn a_document_is_called_by_the_path_that_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mesh.yaml");
    fs::write(&path, "kind: MeshConfig").unwrap();
    assert_eq!(read(std::slice::from_ref(&path)).unwrap()[0].source, path.display().to_string());
}

#[test]
fn an_empty_directory_a_missing_file_and_other_bytes_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path| read(&[path.to_owned()]).unwrap_err().text();
    assert!(refused(dir.path()).contains("no .yaml or .yml file"));
    assert!(refused(&dir.path().join("gone.yaml")).contains("gone.yaml"));
    let latin = dir.path().join("latin.yaml");
    fs::write(&latin, b"kind: Site\nname: caf\xe9\n").unwrap();
    assert!(refused(&latin).contains("latin.yaml:2: this is not UTF-8"));
}

#[test]
fn more_than_one_apply_can_carry_is_refused_before_it_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let half = "#".repeat(32 << 20);
    for name in ["a.yaml", "b.yaml", "c.yaml"] {
        fs::write(dir.path().join(name), &half).unwrap();
    }
    let text = read(&[dir.path().to_owned()]).unwrap_err().text();
    assert!(text.contains("c.yaml") && text.contains("64 MiB"), "{text}");
}

#[test]
fn parts_put_together_again_are_the_documents() {
    let lengths = [0, 5, PART - 6, 1, PART, 3 * PART + 7, 2];
    let documents: Vec<Document> = (0..)
        .zip(lengths)
        .map(|(n, length)| Document { source: n.to_string(), yaml: "ü".repeat(length / 2) + &"x".repeat(length % 2) })
        .collect();
    let parts = parts(documents.clone(), true);
    assert!(parts[0].dry_run && !parts[0].continues && parts.len() > 5);
    let mut again: Vec<Document> = Vec::new();
    for part in parts {
        assert!(part.documents.iter().map(|document| document.yaml.len()).sum::<usize>() <= PART);
        let mut of_part = part.documents.into_iter();
        if part.continues {
            again.last_mut().unwrap().yaml.push_str(&of_part.next().unwrap().yaml);
        }
        again.extend(of_part);
    }
    assert_eq!(again, documents);
}
