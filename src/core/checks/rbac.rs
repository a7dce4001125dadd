//! Whether the pods may read what discovery reads.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject as Bound};

use crate::core::checks::Findings;
use crate::core::checks::subject::{Subject, seen};
use crate::core::report::Observed;

pub(super) fn run(subject: &Subject, findings: &mut Findings) {
    if subject.workload.kind == "AkkaCluster" && subject.service_account() == "default" {
        return findings.skip("rbac-pods", &subject.object, "the operator makes service account, role and binding");
    }
    account(subject, findings);
    let dangles = dangling(subject, findings);
    if !subject.needs_api() {
        return findings.pass("rbac-pods", &subject.object, "discovery does not ask the Kubernetes API");
    }
    token(subject, findings);
    pods(subject, findings, dangles);
}

/// What Kubernetes' discovery of both frameworks asks for (`KubernetesApiServiceDiscovery`, `podRequest`: one GET of the
/// namespace's pods by their label). Their documentation gives get and watch as well, which nothing uses.
const VERB: &str = "list";

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

/// Bindings of the pods' account to roles that are not there, where that can be known; whether there are any.
fn dangling(subject: &Subject, findings: &mut Findings) -> bool {
    let Ok(bindings) = bindings(subject) else { return false };
    let dangling: Vec<String> = bindings
        .iter()
        .filter(|binding| binding.rules.is_none() && is_known(subject, binding.role))
        .filter(|binding| binding.subjects.iter().any(|bound| whose(bound, subject) == Whose::Ours))
        // A group's binding is everybody's, and somebody else's matter.
        .filter(|binding| binding.subjects.iter().any(|bound| bound.kind != "Group"))
        .map(|binding| format!("{} gives the pods {} {}", binding.name, binding.role.kind, binding.role.name))
        .collect();
    if dangling.is_empty() {
        return false;
    }
    let next = format!("kubectl get roles,rolebindings -n {}", super::word(subject.namespace, "NAMESPACE"));
    findings.fail("rbac-role", &subject.object, dangling.join(" and ") + ", which was not found", &next);
    true
}

/// Whether a role that was not seen is not there.
fn is_known(subject: &Subject, role: &RoleRef) -> bool {
    let objects = &subject.facts.objects;
    if !subject.offline() {
        return role.kind == "Role" || seen(&objects.cluster_roles).is_ok();
    }
    // A ClusterRole such as `view` is there without being in anybody's files.
    let mut roles = seen(&objects.roles).unwrap_or_default().iter();
    role.kind == "Role" && roles.any(|role| role.metadata.namespace.as_deref() == Some(subject.namespace))
}

fn pods(subject: &Subject, findings: &mut Findings, dangles: bool) {
    let object = &subject.object;
    let account = format!("{}/{}", subject.namespace, subject.service_account());
    // The API server's own word beats what roles seem to say.
    let access = match subject.facts.access.get(&account) {
        Some(Observed::Seen(access)) => Some(access.may.get(&format!("{VERB} pods")) == Some(&true)),
        _ => None,
    };
    if access == Some(true) {
        return findings.pass("rbac-pods", object, format!("{account} may list pods"));
    }
    let bindings = match bindings(subject) {
        Ok(bindings) => bindings,
        Err(reason) => return findings.skip("rbac-pods", object, format!("roles were not seen: {reason}")),
    };
    let of_us: Vec<&Binding> = bindings
        .iter()
        .filter(|binding| binding.subjects.iter().any(|bound| whose(bound, subject) == Whose::Ours))
        .collect();
    let given = of_us.iter().filter_map(|binding| binding.rules).any(|rules| gives(rules, VERB));
    if given && access.is_none() {
        return findings.pass("rbac-pods", object, format!("{account} may list pods"));
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
    let (code, message) = diagnosis(subject, &bindings, &of_us);
    match code.or(access.map(|_| "rbac-pods")) {
        // That is said already.
        Some("rbac-role") if dangles => {}
        Some(code) => findings.fail(code, object, message, &next),
        None => findings.skip("rbac-pods", object, message),
    }
}

/// The one thing that is wrong most likely; no code where nothing can be said of files.
fn diagnosis(subject: &Subject, all: &[Binding], of_us: &[&Binding]) -> (Option<&'static str>, String) {
    let account = format!("{}:{}", subject.namespace, subject.service_account());
    if let Some(binding) = of_us.iter().find(|binding| binding.rules.is_some_and(speaks_of_pods)) {
        let message = format!(
            "{} gives {account} {} {}, which does not let it {VERB} pods",
            binding.name, binding.role.kind, binding.role.name
        );
        return (Some("rbac-verbs"), message);
    }
    let exists = seen(&subject.facts.objects.roles).unwrap_or_default().iter();
    let own_roles: Vec<_> =
        exists.filter(|role| role.metadata.namespace.as_deref() == Some(subject.namespace)).collect();
    if let Some(binding) = of_us.iter().find(|binding| binding.rules.is_none()) {
        let Binding { name, role, .. } = binding;
        let message = format!("{name} gives {account} {} {}, which was not found", role.kind, role.name);
        return (is_known(subject, role).then_some("rbac-role"), message);
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
    (Some("rbac-pods"), format!("nothing gives {account} {VERB} on pods"))
}
