//! Nothing secret where it can be read: logs, dumps, arguments, environments, cores.

use std::fs;
use std::os::unix::fs::MetadataExt;

use isthmus_certs::JoinToken;
use isthmus_world::mesh::{Mesh, WORKLOADS};

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("no_secret_is_in_logs_dumps_arguments_or_environments", nowhere),
    ("sidecar_and_control_plane_leave_no_core_and_let_nobody_look_into_them", protected),
];

fn nowhere(mesh: &mut Mesh) -> Result<(), String> {
    let mut secrets = Vec::new();
    for workload in WORKLOADS {
        secrets.push((
            format!("the key of {workload}"),
            String::from_utf8_lossy(&mesh.private_key(workload)?.needle).into_owned(),
        ));
        let token = fs::read_to_string(mesh.file(&format!("{workload}.token"))).map_err(|e| e.to_string())?;
        let token = JoinToken::parse(&token).map_err(|e| e.to_string())?;
        secrets.push((format!("the token of {workload}"), token.secret().to_string()));
    }
    let operator = fs::read_to_string(mesh.control().operator_file()).map_err(|e| e.to_string())?;
    let key = operator.split("PRIVATE KEY-----").nth(1).unwrap_or_default();
    let line = key.lines().map(str::trim).max_by_key(|line| line.len()).unwrap_or_default();
    require(line.len() >= 48, || "the operator's key was not found".to_owned())?;
    secrets.push(("the operator's key".to_owned(), line.to_owned()));
    for (place, text) in places(mesh)? {
        let found = secrets.iter().find(|(_, secret)| text.contains(secret.as_str()));
        require(found.is_none(), || format!("{} is in {place}", found.map_or("", |(what, _)| what)))?;
    }
    Ok(())
}

fn places(mesh: &Mesh) -> Result<Vec<(String, String)>, String> {
    let mut places = vec![("the control plane's log".to_owned(), mesh.control().log().join("\n"))];
    for workload in WORKLOADS {
        let sidecar = mesh.sidecar(workload);
        places.push((format!("the log of {workload}"), sidecar.log().join("\n")));
        for page in ["/config_dump", "/status", "/certs", "/decisions"] {
            places.push((format!("{page} of {workload}"), mesh.admin(workload, page)?));
        }
        for file in ["cmdline", "environ"] {
            let path = format!("/proc/{}/{file}", sidecar.process().id());
            let bytes = fs::read(&path).map_err(|e| format!("{path}: {e}"))?;
            places.push((format!("{file} of {workload}"), String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    require(places.iter().all(|(place, text)| !text.is_empty() || place.starts_with("the control")), || {
        "something that should be looked through is empty".to_owned()
    })?;
    Ok(places)
}

fn protected(mesh: &mut Mesh) -> Result<(), String> {
    let (lonely, open) = mesh.lonely_sidecar(1337)?;
    let lonely_control = mesh.lonely_control(1337)?;
    let control = mesh.control().process().ok_or("the control plane is gone")?.id();
    for process in [lonely.id(), mesh.sidecar("web").process().id(), control, lonely_control.id()] {
        let limits = fs::read_to_string(format!("/proc/{process}/limits")).map_err(|e| e.to_string())?;
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap_or_default();
        let none = core.split_whitespace().filter(|word| *word == "0").count() == 2;
        require(none, || format!("core files of {process}: {core}"))?;
    }
    // Of a process that is not dumpable, what is in /proc belongs to root and not to its user (proc(5), PR_SET_DUMPABLE).
    let owner = |of: &str| fs::metadata(format!("{of}/environ")).map(|file| file.uid()).map_err(|e| e.to_string());
    if owner(&format!("/proc/{}", open.id()))? != 1337 {
        // In a user namespace the kernel knows no other user.
        eprintln!("SKIPPED: who may look into a process: needs real root");
        return if std::env::var_os("CI").is_some() { Err("CI runs as root".to_owned()) } else { Ok(()) };
    }
    for (whose, process) in [("sidecar", lonely.id()), ("control plane", lonely_control.id())] {
        let owner = owner(&format!("/proc/{process}"))?;
        require(owner != 1337, || format!("a process of the same user may read the {whose}'s memory"))?;
    }
    Ok(())
}
