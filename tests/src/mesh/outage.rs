//! What suites do to a mesh to see it go on: processes killed and started anew, a control plane with another
//! configuration; and what an operator sees meanwhile.

use std::io::Write;
use std::time::Duration;

use serde_json::Value;

use super::Mesh;
use crate::command::Command;
use crate::process::Process;

const DEADLINE: Duration = Duration::from_secs(40);

impl Mesh {
    /// What the sidecar says of itself.
    pub fn status(&self, workload: &str) -> Result<Value, String> {
        let page = self.admin(workload, "/status")?;
        serde_json::from_str(&page).map_err(|e| format!("/status of {workload}: {e}: {page}"))
    }

    /// `isthmus status` on the workload's host.
    pub fn status_text(&self, workload: &str) -> Result<String, String> {
        let socket = self.dir.path().join(workload).join("proxy.sock");
        let command = Command::new(&self.options.binary).args(["status", "--socket"]).arg(socket).named("isthmus");
        let done = self.world().host(workload).output(command, DEADLINE).map_err(|e| e.to_string())?;
        Ok(done.stdout + &done.stderr)
    }

    /// `/ready` of the sidecar: status and text.
    pub fn readiness(&self, workload: &str) -> Result<(u16, String), String> {
        self.sidecar(workload).readiness().map(|answer| (answer.status, answer.body))
    }

    /// A page of the sidecar's admin socket.
    pub fn admin(&self, workload: &str, page: &str) -> Result<String, String> {
        self.sidecar(workload).admin(page).map(|answer| answer.body)
    }

    /// A command of the operator: its exit status and all that it said.
    pub fn isthmus_status(&self, args: &[&str]) -> Result<(Option<i32>, String), String> {
        let control = self.control();
        let done = control.host().output(control.command(args), DEADLINE).map_err(|e| e.to_string())?;
        Ok((done.status.code(), done.stdout + &done.stderr))
    }

    /// Ends the control plane in order, and starts it with `more` in its configuration and its environment.
    pub fn reconfigure_control(&mut self, more: &str, env: (String, String)) -> Result<(), String> {
        self.control.reconfigure(more, env)
    }

    /// A program on the control plane's host.
    pub fn run_on_control(&self, program: &str, arguments: &[&str], env: &(String, String)) -> Result<(), String> {
        let command = Command::new(program).args(arguments).env(&env.0, &env.1);
        let done = self.control.host().output(command, DEADLINE).map_err(|e| e.to_string())?;
        if done.status.success() { Ok(()) } else { Err(format!("{program}: {}{}", done.stdout, done.stderr)) }
    }

    /// A sidecar under another user, which waits for a control plane for ever; and a program that protects itself from
    /// nobody, under the same user.
    pub fn lonely_sidecar(&self, uid: u32) -> Result<(Process, Process), String> {
        let dir = self.dir.path().join("lonely");
        let io = |e: std::io::Error| e.to_string();
        std::fs::create_dir_all(&dir).map_err(io)?;
        // A good token, of a control plane that is not there.
        let text = std::fs::read_to_string(self.dir.path().join("web.token")).map_err(io)?;
        let (token, config) = (dir.join("token"), dir.join("proxy.yaml"));
        std::fs::write(&token, text).map_err(io)?;
        let any = "\"127.0.0.1:0\"";
        let text = format!(
            "controlPlane: {{ address: \"127.0.0.1:1\" }}\njoinTokenFile: {}\nworkers: 1\ncapture: {{ mode: none }}\n\
             listen: {{ outbound: {any}, inbound: {any}, mesh: {any}, metrics: {any}, readiness: {any} }}\n",
            token.display()
        );
        std::fs::File::create(&config).and_then(|mut file| file.write_all(text.as_bytes())).map_err(io)?;
        for path in [self.dir.path(), &dir, &token, &config] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(io)?;
        }
        let host = self.world().host("stranger");
        let command = Command::new(&self.options.binary).args(["proxy", "--config"]).arg(&config).user(uid);
        let sidecar = host.spawn(command.named("lonely")).map_err(|e| e.to_string())?;
        sidecar
            .wait_for_line("its listeners", DEADLINE, |line| line.contains("listening"))
            .map_err(|e| e.to_string())?;
        // Once it speaks it runs as that user: what changes users on the way to it cannot be looked into either.
        let open = Command::new("sh").args(["-c", "echo up; exec sleep 600"]).user(uid);
        let open = host.spawn(open.named("open")).map_err(|e| e.to_string())?;
        open.wait_for_line("its user", DEADLINE, |line| line == "up").map_err(|e| e.to_string())?;
        Ok((sidecar, open))
    }

    /// A control plane of nobody, under another user.
    pub fn lonely_control(&self, uid: u32) -> Result<Process, String> {
        let dir = self.dir.path().join("lonely-control");
        let (state, config) = (dir.join("state"), dir.join("control.yaml"));
        let io = |e: std::io::Error| e.to_string();
        std::fs::create_dir_all(&state).map_err(io)?;
        let any = "\"127.0.0.1:0\"";
        let text = format!(
            "trustDomain: lonely.example\nstateDir: {}\nadvertise: \"127.0.0.1:15012\"\n\
             listen: {{ proxies: {any}, operators: {any}, metrics: {any} }}\n",
            state.display()
        );
        std::fs::write(&config, text).map_err(io)?;
        for path in [self.dir.path(), &dir, &config] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(io)?;
        }
        std::os::unix::fs::chown(&state, Some(uid), None).map_err(io)?;
        let command = Command::new(&self.options.binary).args(["control", "--config"]).arg(&config).user(uid);
        let host = self.world().host("stranger");
        let control = host.spawn(command.named("lonely-control")).map_err(|e| e.to_string())?;
        control
            .wait_for_line("its readiness", DEADLINE, |line| line.contains("control plane up"))
            .map_err(|e| e.to_string())?;
        Ok(control)
    }
}
