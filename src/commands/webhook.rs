//! `bypassctl webhook`: pods get the agent as they are created.

use std::net::SocketAddr;

use crate::cli::WebhookArgs;
use crate::cluster::client::{Target, connect};
use crate::commands::inject::options;
use crate::commands::{Failure, Outcome};
use crate::core::inject::check_options;
use crate::webhook::{self, Own, Source, Webhook, WebhookError};

pub(super) fn run(args: &WebhookArgs) -> Result<Outcome, Failure> {
    let options = options(&args.injection)?;
    // What no pod could be injected with is better known now than with the first pod.
    check_options(&options).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let source = source(args).await?;
        let admin = SocketAddr::new(args.listen.ip(), args.admin_port);
        let webhook = Webhook { listen: args.listen, admin, options, source };
        webhook::run(webhook).await.map_err(|error| match error {
            WebhookError::Certificate(_) => Failure::usage(error),
            WebhookError::Listen { .. } | WebhookError::Io(_) => Failure::from(error),
        })
    })?;
    Ok(Outcome::Done)
}

async fn source(args: &WebhookArgs) -> Result<Source, Failure> {
    if let Some(dir) = &args.tls_dir {
        return Ok(Source::Files(dir.clone()));
    }
    let (Some((namespace, secret)), Some(service), Some(configuration)) =
        (args.secret.clone(), args.service.clone(), args.webhook_configuration.clone())
    else {
        return Err(Failure::usage(anyhow::anyhow!(
            "--self-signed needs --secret, --service and --webhook-configuration"
        )));
    };
    let target = Target { kubeconfig: args.kubeconfig.clone(), ..Target::default() };
    let cluster =
        connect(&target).await.map_err(|error| if error.is_usage() { Failure::usage(error) } else { error.into() })?;
    Ok(Source::Own(Box::new(Own { client: cluster.client, namespace, secret, service, configuration })))
}
