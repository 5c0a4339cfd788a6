//! The control plane as a user would run it: one process, one state directory, one configuration file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::Command;
use crate::host::Host;
use crate::process::Process;

const START: Duration = Duration::from_secs(20);

/// `isthmus control` on its host, and the operator's side of it.
pub struct ControlPlane {
    host: Host,
    binary: PathBuf,
    config: PathBuf,
    state: PathBuf,
    environment: Option<(String, String)>,
    process: Option<Process>,
}

impl ControlPlane {
    pub(super) fn start(host: &Host, binary: &Path, dir: &Path, trust_domain: &str) -> Result<ControlPlane, String> {
        let state = dir.join("control");
        let config = dir.join("control.yaml");
        let text = format!(
            "trustDomain: {trust_domain}\nstateDir: {}\nadvertise: \"{}\"\n\
             listen:\n  proxies: \"{}\"\n  operators: \"{}\"\n  metrics: \"127.0.0.1:15014\"\n",
            state.display(),
            host.socket(15012),
            host.socket(15012),
            host.socket(15013),
        );
        fs::write(&config, text).map_err(|e| format!("{}: {e}", config.display()))?;
        let (host, binary) = (host.clone(), binary.to_owned());
        let mut control = ControlPlane { host, binary, config, state, environment: None, process: None };
        control.launch()?;
        Ok(control)
    }

    /// Starts it on the state that it left.
    pub(super) fn launch(&mut self) -> Result<(), String> {
        let command = Command::new(&self.binary)
            .args(["control", "--config"])
            .arg(&self.config)
            .named("control")
            .log_file(self.state.with_extension("log"));
        let command = self.environment.iter().fold(command, |command, (name, value)| command.env(name, value));
        let process = self.host.spawn(command).map_err(|e| e.to_string())?;
        let process = self.process.insert(process);
        process
            .wait_for_line("its readiness", START, |line| line.contains("control plane up"))
            .map_err(|e| e.to_string())?;
        Ok(())
    }

    /// Ends it in order, and starts it with more in its configuration.
    pub(super) fn reconfigure(&mut self, more: &str, environment: (String, String)) -> Result<(), String> {
        if let Some(mut process) = self.process.take() {
            process.terminate(START).map_err(|e| e.to_string())?;
        }
        let text = fs::read_to_string(&self.config).map_err(|e| e.to_string())?;
        fs::write(&self.config, text + more).map_err(|e| e.to_string())?;
        self.environment = Some(environment);
        self.launch()
    }

    /// SIGKILL: no chance to write anything down.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Gone already is as good.
            let _ = process.kill();
        }
    }

    /// Its log, for messages.
    pub fn log(&self) -> Vec<String> {
        self.process.as_ref().map(Process::logs).unwrap_or_default()
    }

    /// The process, while it runs.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    /// The operator's credentials, as the control plane wrote them.
    pub fn operator_file(&self) -> PathBuf {
        self.state.join("operator.yaml")
    }

    /// A command of the operator, run where the control plane is.
    pub fn command(&self, args: &[&str]) -> Command {
        Command::new(&self.binary).args(args).env("ISTHMUS_OPERATOR", self.operator_file()).named("isthmus")
    }

    pub fn host(&self) -> &Host {
        &self.host
    }
}
