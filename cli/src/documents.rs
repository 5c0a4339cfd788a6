//! From `-f FILE|DIR|-` to documents for the control plane. What is wrong inside them is for the control plane to say:
//! there is one validation, and it is there.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use isthmus_proto::admin::v1::{ApplyPart, Document, ResourceRef};
use serde::Deserialize;

use crate::failure::Failure;
use crate::{get, kinds};

/// What the control plane takes as one apply.
const MAX_BYTES: u64 = 64 << 20;
/// Of one message; tonic takes 4 MiB.
const PART: usize = 1 << 20;

/// Documents as the messages that carry them, in order. The first says what is asked for.
pub(crate) fn parts(documents: Vec<Document>, dry_run: bool) -> Vec<ApplyPart> {
    let mut parts = vec![ApplyPart { dry_run, ..ApplyPart::default() }];
    let mut free = PART;
    for Document { source, yaml } in documents {
        let (mut rest, mut continues) = (yaml.as_str(), false);
        loop {
            if free == 0 {
                parts.push(ApplyPart { continues, ..ApplyPart::default() });
                free = PART;
            }
            let (now, later) = rest.split_at(rest.floor_char_boundary(free));
            if let Some(part) = parts.last_mut() {
                part.documents.push(Document { source: source.clone(), yaml: now.to_owned() });
            }
            free -= now.len();
            if later.is_empty() {
                break;
            }
            // A character that does not fit any more begins the next part.
            (rest, continues, free) = (later, true, 0);
        }
    }
    parts
}

/// Reads every named file; a directory stands for the `.yaml` and `.yml` files in it (not below it), in name order.
pub(crate) fn read(names: &[PathBuf]) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    let mut left = MAX_BYTES;
    for name in names {
        if name.as_os_str() == "-" {
            documents.push(document("-", read_bounded(io::stdin().lock(), &mut left), name)?);
            continue;
        }
        for path in files(name)? {
            let file = fs::File::open(&path).map_err(|e| unreadable(&path, &e))?;
            documents.push(document(&path.display().to_string(), read_bounded(file, &mut left), &path)?);
        }
    }
    Ok(documents)
}

fn files(name: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !fs::metadata(name).map_err(|e| unreadable(name, &e))?.is_dir() {
        return Ok(vec![name.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(name).map_err(|e| unreadable(name, &e))? {
        let path = entry.map_err(|e| unreadable(name, &e))?.path();
        if path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml") && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    if found.is_empty() {
        let what = format!("{}: there is no .yaml or .yml file in this directory", name.display());
        return Err(Failure::new(what, "name the directory that holds them; subdirectories are not searched"));
    }
    Ok(found)
}

fn read_bounded(from: impl Read, left: &mut u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(*left + 1).read_to_end(&mut bytes)?;
    match left.checked_sub(bytes.len() as u64) {
        Some(rest) => *left = rest,
        None => {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than 64 MiB in one apply"));
        }
    }
    Ok(bytes)
}

fn document(source: &str, bytes: io::Result<Vec<u8>>, path: &Path) -> Result<Document, Failure> {
    let bytes = bytes.map_err(|e| match e.kind() {
        io::ErrorKind::FileTooLarge => Failure::new(
            format!("{}: all files together are more than 64 MiB, the most that one apply can carry", path.display()),
            "apply them in several steps",
        ),
        _ => unreadable(path, &e),
    })?;
    let yaml = String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        Failure::new(format!("{source}:{line}: this is not UTF-8 text"), "save the file as UTF-8")
    })?;
    Ok(Document { source: source.to_owned(), yaml })
}

/// The part of a document that names it; the rest may be anything.
#[derive(Deserialize)]
struct Named {
    kind: String,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    namespace: Option<String>,
    name: String,
}

/// What a document names. Empty documents name nothing.
pub(crate) fn named(document: &Document, namespace: Option<&str>) -> Result<Vec<ResourceRef>, Failure> {
    let all: Vec<Option<Named>> = serde_saphyr::from_multiple(&document.yaml).map_err(|e| {
        Failure::new(
            format!("{}: {}", document.source, e.without_snippet()),
            "each document needs kind, metadata.name and, if it has one, metadata.namespace",
        )
    })?;
    let mut resources = Vec::new();
    for Named { kind, metadata } in all.into_iter().flatten() {
        let kind =
            kinds::parse(&kind).map_err(|e| Failure::new(format!("{}: {e}", document.source), "correct the kind"))?;
        // As the control plane does where a document names none.
        let otherwise = namespace.or(kind.of_kubernetes().then_some("default")).filter(|_| kind.namespaced);
        resources.push(get::reference(kind, &metadata.name, metadata.namespace.as_deref().or(otherwise))?);
    }
    Ok(resources)
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "run as a user who may read it",
        _ => "check the file",
    };
    Failure::new(format!("{}: {error}", path.display()), advice)
}

#[cfg(test)]
#[path = "documents_test.rs"]
mod documents_test;
