//! What an operator does to the mesh: always by the `isthmus` command, as a person or a pipeline would.

use std::time::Duration;

use serde_json::Value;

use super::Mesh;
use crate::process::Finished;

const DEADLINE: Duration = Duration::from_secs(40);

/// A change that is in force.
#[derive(Debug, Clone, Copy)]
pub struct Applied {
    pub revision: u64,
    pub affected: u64,
    pub acknowledged: u64,
    /// From the commit to the last acknowledgement.
    pub elapsed_us: u64,
}

/// A proxy as the control plane sees it.
#[derive(Debug, Clone)]
pub struct Proxy {
    pub workload: String,
    pub spiffe_id: String,
    pub connected: bool,
    pub serial: String,
}

/// What must survive the control plane's death.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub revision: u64,
    pub resources: usize,
    text: String,
}

impl Mesh {
    /// Runs a command of the operator that must succeed; returns what it printed.
    pub fn isthmus(&self, args: &[&str]) -> Result<String, String> {
        let done = self.run(args, "")?;
        match done.status.success() {
            true => Ok(done.stdout),
            false => Err(format!("isthmus {}: {}\n{}{}", args.join(" "), done.status, done.stdout, done.stderr)),
        }
    }

    pub fn isthmus_json(&self, args: &[&str]) -> Result<Value, String> {
        let text = self.isthmus(args)?;
        serde_json::from_str(&text).map_err(|e| format!("isthmus {}: {e}: {text}", args.join(" ")))
    }

    /// A command that may end in any way: its exit status, and what it printed.
    pub fn isthmus_with(&self, args: &[&str], input: &str) -> Result<(i32, String), String> {
        let done = self.run(args, input)?;
        done.status.code().map(|code| (code, done.stdout)).ok_or_else(|| format!("isthmus {}: killed", args.join(" ")))
    }

    fn run(&self, args: &[&str], input: &str) -> Result<Finished, String> {
        let control = self.control();
        control.host().output(control.command(args).input(input), DEADLINE).map_err(|e| e.to_string())
    }

    /// `isthmus apply -f - --wait`.
    pub fn apply(&self, yaml: &str) -> Result<Applied, String> {
        let done = self.run(&["apply", "-f", "-", "--wait", "--json"], yaml)?;
        if !done.status.success() {
            return Err(format!("isthmus apply: {}\n{}{}", done.status, done.stdout, done.stderr));
        }
        let answer: Value =
            serde_json::from_str(&done.stdout).map_err(|e| format!("isthmus apply: {e}: {}", done.stdout))?;
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let in_force = &answer["inForce"];
        Ok(Applied {
            revision: number(&answer["revision"]),
            affected: number(&in_force["affected"]),
            acknowledged: number(&in_force["acknowledged"]),
            elapsed_us: number(&in_force["elapsedUs"]),
        })
    }

    /// `isthmus apply -f FILE` that must be refused; returns what it said.
    pub fn apply_refused(&self, file: &str, yaml: &str) -> Result<String, String> {
        let path = self.dir.path().join(file);
        std::fs::write(&path, yaml).map_err(|e| format!("{}: {e}", path.display()))?;
        let done = self.run(&["apply", "-f", &path.display().to_string()], "")?;
        match done.status.success() {
            true => Err(format!("an invalid document was taken: {}", done.stdout)),
            // The directory is this run's own and tells nobody anything.
            false => Ok(done.stderr.replace(&format!("{}/", self.dir.path().display()), "").trim().to_owned()),
        }
    }

    /// The proxies that the control plane knows.
    pub fn proxies(&self) -> Result<Vec<Proxy>, String> {
        let answer = self.isthmus_json(&["get", "proxies", "-o", "json"])?;
        let list = answer["proxies"].as_array().ok_or_else(|| format!("no list of proxies: {answer}"))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let proxy = |p: &Value| Proxy {
            workload: text(&p["workload"]),
            spiffe_id: text(&p["spiffeId"]),
            connected: p["connected"].as_bool().unwrap_or_default(),
            serial: text(&p["certificateSerial"]),
        };
        Ok(list.iter().map(proxy).collect())
    }

    /// The serial of the certificate that a workload uses.
    pub fn serial(&self, workload: &str) -> Result<String, String> {
        let answer = self.sidecar(workload).admin("/certs")?;
        let certs: Value = serde_json::from_str(&answer.body).map_err(|e| format!("certs: {e}: {}", answer.body))?;
        certs["serial"].as_str().map(str::to_owned).ok_or_else(|| format!("no serial in {certs}"))
    }

    /// Everything stored, and its revision.
    pub fn stored(&self) -> Result<Stored, String> {
        let mut answer = self.isthmus_json(&["get", "all", "-o", "json"])?;
        // Who has it at this moment is told with a resource, and is not stored.
        let all = answer["resources"].as_array_mut().into_iter().flatten();
        for document in all.filter_map(|one| one["document"].as_object_mut()) {
            document.remove("status");
        }
        let revision = answer["revision"].as_u64().ok_or_else(|| format!("no revision in {answer}"))?;
        let list = answer["resources"].as_array().ok_or_else(|| format!("no resources in {answer}"))?;
        let (resources, text) = (list.len(), answer["resources"].to_string());
        Ok(Stored { revision, resources, text })
    }

    /// The store's revision.
    pub fn revision(&self) -> Result<u64, String> {
        self.stored().map(|stored| stored.revision)
    }
}
