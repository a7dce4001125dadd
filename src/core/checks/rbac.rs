//! Whether the pods may read what discovery reads, and who else reads what they should not.

use k8s_openapi::api::core::v1::{Container, ServiceAccount};
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject as Bound};

use crate::core::checks::Findings;
use crate::core::checks::subject::{Subject, seen};
use crate::core::report::Observed;

pub(super) fn run(subject: &Subject, findings: &mut Findings) {
    secrets(subject, findings);
    if subject.workload.kind == "AkkaCluster" && subject.service_account() == "default" {
        return findings.skip("rbac-pods", &subject.object, "the operator makes service account, role and binding");
    }
    account(subject, findings);
    if !subject.needs_api() {
        return findings.pass("rbac-pods", &subject.object, "discovery does not ask the Kubernetes API");
    }
    token(subject, findings);
    pods(subject, findings);
}

const VERBS: [&str; 3] = ["get", "watch", "list"];

fn account_of<'a>(subject: &Subject<'a>) -> Option<&'a ServiceAccount> {
    let accounts = seen(&subject.facts.objects.service_accounts).ok()?;
    let same = |account: &&ServiceAccount| {
        account.metadata.name.as_deref() == Some(subject.service_account())
            && account.metadata.namespace.as_deref() == Some(subject.namespace)
    };
    accounts.iter().find(same)
}

fn account(subject: &Subject, findings: &mut Findings) {
    let (code, object, name) = ("service-account", &subject.object, subject.service_account());
    let accounts = match seen(&subject.facts.objects.service_accounts) {
        Ok(accounts) => accounts,
        Err(reason) => return findings.skip(code, object, reason),
    };
    if name == "default" || account_of(subject).is_some() {
        return findings.pass(code, object, format!("the pods use {name}"));
    }
    let related = accounts.iter().any(|account| account.metadata.namespace.as_deref() == Some(subject.namespace));
    if subject.offline() && !related {
        return findings.skip(code, object, format!("{name} is not among the files, and may exist"));
    }
    let message = format!("the pods use {name}, and there is no such service account in {}", subject.namespace);
    let next = format!("kubectl get serviceaccounts -n {}", super::word(subject.namespace, "NAMESPACE"));
    findings.fail(code, object, message, &next);
}

fn token(subject: &Subject, findings: &mut Findings) {
    let (code, object) = ("service-account-token", &subject.object);
    let of_account = account_of(subject).and_then(|account| account.automount_service_account_token);
    let mounted = subject.pod.automount_service_account_token.or(of_account).unwrap_or(true);
    let sources = subject.pod.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    let projected =
        sources.flat_map(|source| source.sources.iter().flatten()).any(|s| s.service_account_token.is_some());
    if mounted || projected {
        return findings.pass(code, object, "the token is mounted");
    }
    let next = subject.kubectl("get") + " -o yaml";
    findings.fail(code, object, "automountServiceAccountToken is false, and no token is projected", &next);
}

/// A binding to a role, in the pods' namespace or over all of them.
struct Binding<'a> {
    name: String,
    role: &'a RoleRef,
    subjects: &'a [Bound],
    /// `None` where the role is not among what was seen.
    rules: Option<&'a [PolicyRule]>,
}

fn bindings<'a>(subject: &Subject<'a>) -> Result<Vec<Binding<'a>>, &'a str> {
    let objects = &subject.facts.objects;
    let roles = seen(&objects.roles)?;
    let (cluster_roles, cluster_bindings) = (seen(&objects.cluster_roles), seen(&objects.cluster_role_bindings));
    let rules = |role: &RoleRef| -> Option<&'a [PolicyRule]> {
        let rules = if role.kind == "ClusterRole" {
            let mut roles = cluster_roles.unwrap_or_default().iter();
            roles.find(|found| found.metadata.name.as_deref() == Some(&role.name))?.rules.as_deref()
        } else {
            let mut roles = roles.iter().filter(|role| role.metadata.namespace.as_deref() == Some(subject.namespace));
            roles.find(|found| found.metadata.name.as_deref() == Some(&role.name))?.rules.as_deref()
        };
        Some(rules.unwrap_or_default())
    };
    let of_namespace = seen(&objects.role_bindings)?.iter();
    let of_namespace = of_namespace.filter(|binding| binding.metadata.namespace.as_deref() == Some(subject.namespace));
    let mut bindings: Vec<Binding> = of_namespace
        .map(|binding| Binding {
            name: format!("RoleBinding {}", binding.metadata.name.as_deref().unwrap_or_default()),
            role: &binding.role_ref,
            subjects: binding.subjects.as_deref().unwrap_or_default(),
            rules: rules(&binding.role_ref),
        })
        .collect();
    bindings.extend(cluster_bindings.unwrap_or_default().iter().map(|binding| Binding {
        name: format!("ClusterRoleBinding {}", binding.metadata.name.as_deref().unwrap_or_default()),
        role: &binding.role_ref,
        subjects: binding.subjects.as_deref().unwrap_or_default(),
        rules: rules(&binding.role_ref),
    }));
    Ok(bindings)
}

/// Verbs on pods that these rules give.
fn gives(rules: &[PolicyRule], verb: &str) -> bool {
    let has =
        |list: &Option<Vec<String>>, wanted: &str| list.iter().flatten().any(|word| word == wanted || word == "*");
    rules.iter().any(|rule| {
        has(&rule.api_groups, "") && has(&rule.resources, "pods") && rule.verbs.iter().any(|word| word == verb || word == "*")
            // A rule for some pods by name does not let anybody list.
            && rule.resource_names.as_ref().is_none_or(Vec::is_empty)
    })
}

fn speaks_of_pods(rules: &[PolicyRule]) -> bool {
    rules
        .iter()
        .any(|rule| rule.resources.iter().flatten().any(|resource| matches!(resource.as_str(), "pods" | "pod" | "*")))
}

/// Whose right a binding's subject is.
#[derive(PartialEq, Eq)]
enum Whose {
    Ours,
    /// The same account's name, in this other namespace.
    OtherNamespace(String),
    /// This one's.
    Other(String),
}

fn whose(bound: &Bound, subject: &Subject) -> Whose {
    let (namespace, account) = (subject.namespace, subject.service_account());
    let of = |ns: &str, name: &str| match (ns == namespace, name == account) {
        (true, true) => Whose::Ours,
        (false, true) => Whose::OtherNamespace(ns.to_owned()),
        _ => Whose::Other(format!("{ns}:{name}")),
    };
    match bound.kind.as_str() {
        // Without a namespace it is the binding's own (kubernetes plugin/pkg/auth/authorizer/rbac, `appliesToUser`).
        "ServiceAccount" => {
            of(bound.namespace.as_deref().filter(|ns| !ns.is_empty()).unwrap_or(namespace), &bound.name)
        }
        "User" => match bound.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
            Some((ns, name)) => of(ns, name),
            None => Whose::Other(bound.name.clone()),
        },
        _ => {
            let all = ["system:serviceaccounts", "system:authenticated"];
            if all.contains(&bound.name.as_str()) || bound.name == format!("system:serviceaccounts:{namespace}") {
                Whose::Ours
            } else {
                Whose::Other(bound.name.clone())
            }
        }
    }
}

fn pods(subject: &Subject, findings: &mut Findings) {
    let object = &subject.object;
    let account = format!("{}/{}", subject.namespace, subject.service_account());
    // The API server's own word beats what roles seem to say.
    let access = match subject.facts.access.get(&account) {
        Some(Observed::Seen(access)) => {
            Some(VERBS.iter().all(|verb| access.may.get(&format!("{verb} pods")) == Some(&true)))
        }
        _ => None,
    };
    if access == Some(true) {
        return findings.pass("rbac-pods", object, format!("{account} may get, watch and list pods"));
    }
    let bindings = match bindings(subject) {
        Ok(bindings) => bindings,
        Err(reason) => return findings.skip("rbac-pods", object, format!("roles were not seen: {reason}")),
    };
    let of_us: Vec<&Binding> = bindings
        .iter()
        .filter(|binding| binding.subjects.iter().any(|bound| whose(bound, subject) == Whose::Ours))
        .collect();
    let rules = || of_us.iter().filter_map(|binding| binding.rules).flatten().cloned().collect::<Vec<_>>();
    let given = rules();
    let missing: Vec<&str> = VERBS.into_iter().filter(|verb| !gives(&given, verb)).collect();
    if missing.is_empty() && access.is_none() {
        return findings.pass("rbac-pods", object, format!("{account} may get, watch and list pods"));
    }
    let namespace = super::word(subject.namespace, "NAMESPACE");
    let next = format!(
        "kubectl auth can-i list pods -n {namespace} --as system:serviceaccount:{namespace}:{}",
        super::word(subject.service_account(), "ACCOUNT")
    );
    let objects = &subject.facts.objects;
    let unseen = seen(&objects.cluster_roles).err().or(seen(&objects.cluster_role_bindings).err());
    if let Some(reason) = unseen.filter(|_| access.is_none()) {
        return findings.skip("rbac-pods", object, format!("cluster roles were not seen: {reason}"));
    }
    let (code, message) = diagnosis(subject, &bindings, &of_us, &missing);
    match code.or(access.map(|_| "rbac-pods")) {
        Some(code) => findings.fail(code, object, message, &next),
        None => findings.skip("rbac-pods", object, message),
    }
}

/// The one thing that is wrong most likely; no code where nothing can be said of files.
fn diagnosis(
    subject: &Subject,
    all: &[Binding],
    of_us: &[&Binding],
    missing: &[&str],
) -> (Option<&'static str>, String) {
    let account = format!("{}:{}", subject.namespace, subject.service_account());
    if let Some(binding) = of_us.iter().find(|binding| binding.rules.is_some_and(speaks_of_pods)) {
        let message = format!(
            "{} gives {account} {} {}, without {}",
            binding.name,
            binding.role.kind,
            binding.role.name,
            missing.join(", ")
        );
        return (Some("rbac-verbs"), message);
    }
    let exists = seen(&subject.facts.objects.roles).unwrap_or_default().iter();
    let own_roles: Vec<_> =
        exists.filter(|role| role.metadata.namespace.as_deref() == Some(subject.namespace)).collect();
    if let Some(binding) = of_us.iter().find(|binding| binding.rules.is_none()) {
        let Binding { name, role, .. } = binding;
        // A ClusterRole such as `view` is there without being in anybody's files.
        let known = !subject.offline() || (role.kind == "Role" && !own_roles.is_empty());
        let message = format!("{name} gives {account} {} {}, which was not found", role.kind, role.name);
        return (known.then_some("rbac-role"), message);
    }
    let for_pods = all.iter().filter(|binding| binding.rules.is_some_and(speaks_of_pods));
    let mut others =
        for_pods.flat_map(|binding| binding.subjects.iter().map(move |bound| (binding, whose(bound, subject))));
    let mut somebody = None;
    for (binding, whose) in others.by_ref() {
        match whose {
            Whose::OtherNamespace(namespace) => {
                let message = format!(
                    "{} names the account in namespace {namespace:?}, and the pods are in {:?}",
                    binding.name, subject.namespace
                );
                return (Some("rbac-subject-namespace"), message);
            }
            Whose::Other(other) => {
                somebody.get_or_insert_with(|| {
                    format!("{} gives the right to {other}, and the pods are {account}", binding.name)
                });
            }
            Whose::Ours => {}
        }
    }
    if let Some(message) = somebody {
        return (Some("rbac-subject"), message);
    }
    let unbound = own_roles.iter().find(|role| speaks_of_pods(role.rules.as_deref().unwrap_or_default()));
    if let Some(role) = unbound {
        let name = role.metadata.name.as_deref().unwrap_or_default();
        return (Some("rbac-role"), format!("Role {name} is bound to nobody"));
    }
    if subject.offline() && of_us.is_empty() {
        return (None, "no role and no binding for pods is among the files".to_owned());
    }
    (Some("rbac-pods"), format!("nothing gives {account} {} on pods", missing.join(", ")))
}

/// What a variable for a secret has in its name.
const SECRET_PARTS: [&str; 8] =
    ["PASSWORD", "PASSWD", "SECRET", "API_KEY", "APIKEY", "PRIVATE_KEY", "ACCESS_KEY", "PASSPHRASE"];
/// The same, where only the whole word says it: a TOKENIZER is no secret.
const SECRET_WORDS: [&str; 3] = ["TOKEN", "CREDENTIAL", "CREDENTIALS"];
/// What follows such a word where the value is no secret itself.
const HARMLESS_ENDS: [&str; 13] = [
    "_FILE", "_PATH", "_NAME", "_DIR", "_URL", "_URI", "_TTL", "_SECONDS", "_TIMEOUT", "_ENABLED", "_TYPE", "_EXPIRY",
    "_ID",
];

/// Whether a variable of this name and value is a secret in plain sight.
pub(in crate::core) fn is_secret(name: &str, value: &str) -> bool {
    let name = name.to_ascii_uppercase().replace(['-', '.'], "_");
    let named =
        SECRET_PARTS.iter().any(|part| name.contains(part)) || name.split('_').any(|word| SECRET_WORDS.contains(&word));
    let says_so = named && !HARMLESS_ENDS.iter().any(|end| name.ends_with(end));
    let value = value.trim();
    let is_value = !value.is_empty()
        && !value.contains("$(")
        && !value.contains("${")
        && !value.starts_with('/')
        && !matches!(value, "true" | "false" | "none" | "null")
        && value.parse::<u16>().is_err();
    // `jdbc:postgresql://user:password@host`
    let in_url = value.split_once("://").and_then(|(_, rest)| rest.split_once('@')).is_some_and(|(user, _)| {
        !user.contains('/')
            && user.split_once(':').is_some_and(|(_, password)| !password.is_empty() && !password.contains("$("))
    });
    (says_so && is_value) || in_url
}

fn secrets(subject: &Subject, findings: &mut Findings) {
    let (code, object) = ("secret-in-environment", &subject.object);
    let containers = subject.pod.containers.iter().chain(subject.pod.init_containers.iter().flatten());
    let of = |container: &Container| {
        let env = container.env.iter().flatten();
        let plain = env.filter_map(|variable| Some((variable.name.clone(), variable.value.as_deref()?)));
        let found = plain.filter(|(name, value)| is_secret(name, value) || has_secret_option(value));
        found.map(|(name, _)| format!("{name} of container {}", container.name)).collect::<Vec<_>>()
    };
    let secrets: Vec<String> = containers.flat_map(of).collect();
    if secrets.is_empty() {
        return findings.pass(code, object, "no variable looks like a secret in plain text");
    }
    findings.fail(
        code,
        object,
        format!("{} stands there in plain text", secrets.join(", ")),
        "kubectl create secret generic --help",
    );
}

/// `-Ddb.password=…` among a JVM's options.
pub(in crate::core) fn has_secret_option(value: &str) -> bool {
    let options = value.split_whitespace().filter_map(|option| option.strip_prefix("-D")?.split_once('='));
    options.into_iter().any(|(name, value)| is_secret(name, value))
}
