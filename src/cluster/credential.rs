//! What a kubeconfig's `exec` says: a program that prints credentials (Kubernetes, `client.authentication.k8s.io`).
//!
//! Invariant: it is waited for within bounds, and ended with all that it has started when the time is over. What it prints
//! is shown to nobody.

use std::io::{IsTerminal as _, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use k8s_openapi::ByteString;
use kube::config::{AuthInfo, ExecConfig, ExecInteractiveMode};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

/// How long it may take where nobody can answer its questions.
const LIMIT: Duration = Duration::from_secs(30);
/// The same where somebody may have to log in.
const LIMIT_FOR_PEOPLE: Duration = Duration::from_secs(180);
/// Bytes of what it prints; certificates have some thousands.
const MOST_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
struct Printed {
    status: Option<Credentials>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Credentials {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

/// Runs the program, if there is one, and puts what it prints into its place.
pub(super) async fn obtain(auth: &mut AuthInfo) -> Result<(), String> {
    let Some(exec) = auth.exec.take() else { return Ok(()) };
    let command = exec.command.clone().ok_or("its exec names no command")?;
    let credentials = run(&exec, &command, None).await.map_err(|reason| {
        let hint = exec.install_hint.as_ref().map(|hint| format!("; {}", hint.trim())).unwrap_or_default();
        format!("the credential plugin {command:?} {reason}{hint}")
    })?;
    match credentials {
        Credentials { client_certificate_data: Some(certificate), client_key_data: Some(key), .. } => {
            auth.client_certificate_data = base64(certificate);
            auth.client_key_data = base64(key).map(Into::into);
        }
        Credentials { token: Some(token), .. } => auth.token = Some(token.into()),
        _ => {
            return Err(format!(
                "the credential plugin {command:?} gives neither a token nor a certificate with its key"
            ));
        }
    }
    Ok(())
}

/// As a kubeconfig has it.
fn base64(pem: String) -> Option<String> {
    serde_json::to_value(ByteString(pem.into_bytes())).ok()?.as_str().map(str::to_owned)
}

async fn run(exec: &ExecConfig, command: &str, limit: Option<Duration>) -> Result<Credentials, String> {
    let interactive = exec.interactive_mode != Some(ExecInteractiveMode::Never) && std::io::stdin().is_terminal();
    let limit = limit.unwrap_or(if interactive { LIMIT_FOR_PEOPLE } else { LIMIT });
    let spec = json!({"interactive": interactive, "cluster": exec.provide_cluster_info.then_some(&exec.cluster)});
    let info = json!({"apiVersion": exec.api_version, "kind": "ExecCredential", "spec": spec});
    let mut program = Command::new(command);
    program.args(exec.args.iter().flatten()).env("KUBERNETES_EXEC_INFO", info.to_string());
    let variables = exec.env.iter().flatten().filter_map(|one| Some((one.get("name")?, one.get("value")?)));
    program.envs(variables).stdout(Stdio::piped());
    if interactive {
        program.stdin(Stdio::inherit()).stderr(Stdio::inherit());
    } else {
        // In a group of its own, which may not read from a terminal, but can be ended as a whole.
        program.stdin(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    }
    let child = program.spawn().map_err(|error| format!("cannot be started: {error}"))?;
    let mut unfinished = Unfinished { id: i32::try_from(child.id()).ok(), is_group: !interactive };
    let (sender, ended) = oneshot::channel();
    // Who does not wait any more has killed it, so that the thread ends.
    std::thread::spawn(move || sender.send(output(child)));
    let ended = tokio::time::timeout(limit, ended).await;
    let ended = ended.map_err(|_| format!("has not ended after {} seconds, and was killed", limit.as_secs()))?;
    unfinished.id = None;
    let (printed, complaint, status) =
        ended.map_err(|_| "was lost".to_owned())?.map_err(|error| format!("cannot be waited for: {error}"))?;
    if !status.success() {
        let complaint = String::from_utf8_lossy(&complaint).trim().chars().take(300).collect::<String>();
        return Err(format!("failed ({status}): {complaint}").trim_end_matches(": ").to_owned());
    }
    let printed: Option<Printed> = serde_json::from_slice(&printed).ok();
    printed.and_then(|printed| printed.status).ok_or_else(|| "prints no ExecCredential with a status".to_owned())
}

/// What it prints on both ways until it ends, and how it ends.
fn output(mut child: Child) -> std::io::Result<(Vec<u8>, Vec<u8>, ExitStatus)> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let complaint = std::thread::spawn(|| read(stderr));
    let printed = read(stdout);
    let status = child.wait()?;
    Ok((printed, complaint.join().unwrap_or_default(), status))
}

fn read(from: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // What broke off is no JSON, and is told as that.
        let _ = from.take(MOST_BYTES).read_to_end(&mut bytes);
    }
    bytes
}

/// A process, with its group if that is its own, that is killed when nobody waits for it any more.
struct Unfinished {
    /// `None` once it has ended: another one may have the number.
    id: Option<i32>,
    is_group: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(id) = self.id.map(Pid::from_raw) else { return };
        // Gone, where it has ended by itself.
        let _ = if self.is_group { killpg(id, Signal::SIGKILL) } else { kill(id, Signal::SIGKILL) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(script: &str) -> AuthInfo {
        let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script],
            "env": [{"name": "WHO", "value": "jane"}], "interactiveMode": "Never", "installHint": "get it"});
        serde_json::from_value(json!({ "exec": exec })).unwrap()
    }

    #[tokio::test]
    async fn what_a_plugin_prints_takes_the_plugin_s_place() {
        let mut given = auth(r#"echo "{\"status\": {\"token\": \"of-$WHO\"}}""#);
        obtain(&mut given).await.unwrap();
        assert!(given.exec.is_none());
        let token = serde_json::to_value(&given).unwrap()["token"].clone();
        assert_eq!(token, "of-jane");
        let mut given = auth(r#"echo '{"status": {"clientCertificateData": "C", "clientKeyData": "K"}}'"#);
        obtain(&mut given).await.unwrap();
        assert_eq!(given.client_certificate_data.as_deref(), Some("Qw=="));
    }

    #[tokio::test]
    async fn a_plugin_that_fails_is_named_with_its_complaint_and_its_output_is_not() {
        let refused = obtain(&mut auth("echo hush; echo log in first >&2; exit 3")).await.unwrap_err();
        assert!(refused.contains("\"sh\" failed") && refused.contains("log in first; get it"), "{refused}");
        let printed = obtain(&mut auth("echo hush")).await.unwrap_err();
        assert!(printed.contains("prints no ExecCredential") && !printed.contains("hush"), "{printed}");
        let nothing = obtain(&mut auth("echo '{\"status\": {}}'")).await.unwrap_err();
        assert!(nothing.contains("neither a token"), "{nothing}");
    }

    #[tokio::test]
    async fn a_plugin_that_never_ends_is_killed_with_what_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let given = auth(&format!("sleep 1000 & echo $! >{}; wait", file.display()));
        let refused = run(&given.exec.unwrap(), "sh", Some(Duration::from_millis(500))).await.err().unwrap();
        assert!(refused.contains("has not ended"), "{refused}");
        let id: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        // Killed processes stay for a moment; who is nobody's child is buried by another.
        for _ in 0..500 {
            let state = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            if state.is_empty() || state.contains(" Z ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it still runs");
    }
}
