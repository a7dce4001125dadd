//! `bypassctl render`: what can be done without the agent.

use anyhow::anyhow;
use time::OffsetDateTime;

use crate::cli::{ManifestArgs, RenderAnnotationsArgs, RenderArgs, RenderCommand, RenderTlsArgs, SettingsFormat};
use crate::cluster::client::{ClientError, is_label};
use crate::commands::inject::{manifests, separate};
use crate::commands::{Failure, Outcome, print};
use crate::core::config::ClusterPorts;
use crate::core::facts::Facts;
use crate::core::fallback::{self, Nodes, tls};
use crate::core::inject;
use crate::core::manifests::{Named, Reader};

pub(super) fn run(args: &RenderArgs) -> Result<Outcome, Failure> {
    let text = match &args.what {
        RenderCommand::Annotations(args) => annotations(args)?,
        RenderCommand::NetworkPolicy(args) => fallback::network_policies(&nodes(args)?.1).map_err(Failure::usage)?,
        RenderCommand::Rbac(args) => fallback::rights(&nodes(args)?.1),
        RenderCommand::Tls(args) => settings(args)?,
    };
    print(&text)?;
    Ok(Outcome::Done)
}

fn annotations(args: &RenderAnnotationsArgs) -> Result<String, Failure> {
    let (texts, all) = nodes(&args.manifests)?;
    let mut whole = String::new();
    for (name, text) in texts {
        let edited = inject::annotate(&text, |object, present| {
            // Objects that name no namespace are in another one for those who edit than for those who read.
            let is_it = |nodes: &&Nodes| {
                nodes.object.eq_ignore_ascii_case(object)
                    || object.eq_ignore_ascii_case(&nodes.object.replacen(&nodes.namespace, "default", 1))
            };
            all.iter().find(is_it).map(|nodes| fallback::annotations(args.mesh, nodes, present))
        });
        let edited =
            edited.map_err(|error| Failure::usage(anyhow!(error).context(format!("{name} is left as it is"))))?;
        for object in &edited.changed {
            tracing::info!(object, "annotated");
        }
        separate(&mut whole);
        whole.push_str(&edited.text);
    }
    Ok(whole)
}

/// Manifests by their names.
type Texts = Vec<(String, String)>;

/// The manifests, and the workloads of nodes among them.
fn nodes(args: &ManifestArgs) -> Result<(Texts, Vec<Nodes>), Failure> {
    if !is_label(&args.namespace) {
        return Err(Failure::usage(ClientError::Namespace(args.namespace.clone())));
    }
    let ports = ClusterPorts::new(args.cluster.preset, &args.cluster.remoting_port, &args.cluster.management_port)
        .map_err(Failure::usage)?;
    let texts = manifests(&args.files)?;
    let mut reader = Reader::new(&args.namespace);
    for (name, text) in &texts {
        reader.text(name, text, Named::Itself);
    }
    let facts: Facts = reader.facts(OffsetDateTime::now_utc(), ports);
    if let Some(first) = facts.objects.unreadable.first() {
        let error = anyhow!("{}", first.reason).context(format!("{} cannot be read", first.place));
        return Err(Failure::usage(error));
    }
    let all = fallback::nodes(&facts);
    if all.is_empty() {
        return Err(Failure::usage(anyhow!(
            "no workload here looks like nodes of an Akka or Pekko cluster; give --remoting-port and --management-port, \
             or --preset, where they are not the usual ones"
        )));
    }
    for nodes in &all {
        for reason in &nodes.unsure {
            tracing::warn!(
                object = nodes.object,
                "its ports are a guess: {reason}; give --remoting-port, --management-port"
            );
        }
    }
    Ok((texts, all))
}

fn settings(args: &RenderTlsArgs) -> Result<String, Failure> {
    let dir = &args.tls_dir;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    if !dir.starts_with('/') || !dir.chars().all(is_plain) {
        let error = anyhow!("--tls-dir {dir:?} is no absolute path of letters, digits and . _ -");
        return Err(Failure::usage(error));
    }
    Ok(match args.output {
        SettingsFormat::Hocon => tls::hocon(args.framework, dir),
        SettingsFormat::Options => tls::options(args.framework, dir),
    })
}
