//! Whether a secret stands in the environment or in the command line, where everybody who may read pods reads it.

use k8s_openapi::api::core::v1::Container;

use crate::core::checks::Findings;
use crate::core::checks::subject::Subject;
use crate::core::facts::REMOVED;

/// Words that say so, alone or at the end of another (`PGPASSWORD`, `keyStorePassword`).
const ENDS: [&str; 5] = ["PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "APIKEY"];
/// Words that say so only as a whole: a COMPASS is no secret.
const WORDS: [&str; 6] = ["PASS", "PWD", "PW", "TOKEN", "CREDENTIAL", "CREDENTIALS"];
/// What stands before KEY where that is a secret; a partition has a key, too.
const KEYS: [&str; 8] = ["API", "PRIVATE", "ACCESS", "SECRET", "ENCRYPTION", "SIGNING", "LICENSE", "ACCOUNT"];
/// What may follow without changing what it is: where a secret's name goes on otherwise (`_FILE`, `_HEADER`, `_POLICY`),
/// the value is something about a secret.
const AFTER: [&str; 12] =
    ["VALUE", "BASE", "BASE64", "B64", "PLAIN", "OLD", "NEW", "CURRENT", "PREVIOUS", "PROD", "DEV", "TEST"];

/// Whether a variable of this name and value is a secret in plain sight.
pub(in crate::core) fn is_secret(name: &str, value: &str) -> bool {
    let value = value.trim();
    let is_value = !value.is_empty()
        && value != REMOVED
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
    (is_value && is_named_so(name)) || in_url || in_query(value) || is_private_key(value)
}

/// `jdbc:postgresql://host/db?user=u&password=p`, `jdbc:sqlserver://host;password=p`
fn in_query(value: &str) -> bool {
    let Some((_, rest)) = value.split_once("://") else { return false };
    let options = rest.split(['?', '&', ';']).skip(1).filter_map(|option| option.split_once('='));
    options.into_iter().any(|(name, value)| !value.contains("://") && is_secret(name, value))
}

/// PEM (RFC 7468).
fn is_private_key(value: &str) -> bool {
    value
        .split("-----BEGIN ")
        .skip(1)
        .any(|rest| rest.split("-----").next().is_some_and(|kind| kind.ends_with("PRIVATE KEY")))
}

fn is_named_so(name: &str) -> bool {
    let name = name.to_ascii_uppercase().replace(['-', '.'], "_");
    let mut words: Vec<&str> = name.split('_').filter(|word| !word.is_empty()).collect();
    let follows = |word: &&str| AFTER.contains(word) || word.bytes().all(|byte| byte.is_ascii_digit());
    while words.len() > 1 && words.last().is_some_and(follows) {
        words.pop();
    }
    let Some((last, before)) = words.split_last() else { return false };
    let is_key = *last == "KEY" && before.last().is_some_and(|word| KEYS.contains(word));
    is_key || WORDS.contains(last) || ENDS.iter().any(|end| last.ends_with(end))
}

pub(super) fn run(subject: &Subject, findings: &mut Findings) {
    let (code, object) = ("secret-in-environment", &subject.object);
    let containers = subject.pod.containers.iter().chain(subject.pod.init_containers.iter().flatten());
    let of = |container: &Container| {
        let env = container.env.iter().flatten();
        let plain = env.filter_map(|variable| Some((variable.name.clone(), variable.value.as_deref()?)));
        let found = plain.filter(|(name, value)| is_secret(name, value) || has_secret_option(value));
        let found = found.map(|(name, _)| format!("{name} of container {}", container.name));
        let arguments = container.command.iter().flatten().chain(container.args.iter().flatten());
        let in_arguments = arguments.into_iter().any(|argument| has_secret_option(argument));
        let of_arguments = in_arguments.then(|| format!("an option of the command of container {}", container.name));
        found.chain(of_arguments).collect::<Vec<_>>()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_s_name_ends_with_what_it_is() {
        let secrets = [
            "DB_PASS",
            "DB_PWD",
            "PGPASSWORD",
            "db.password",
            "keyStorePassword",
            "AWS_SECRET_ACCESS_KEY",
            "GITHUB_TOKEN",
            "SECRET_KEY_BASE",
            "ADMIN_PASSWORD_1",
            "API_KEY",
            "AKKA_LICENSE_KEY",
            "API-KEY",
            "CLIENT_SECRET",
        ];
        let others = [
            "API_KEY_HEADER",
            "SECRET_MANAGER_PROJECT",
            "PASSWORD_POLICY",
            "DB_PASSWORD_FILE",
            "TOKEN_ENDPOINT",
            "COMPASS",
            "BYPASS",
            "TOKENIZER",
            "PARTITION_KEY",
            "SECRET_NAME",
            "PASSWORD_MIN_LENGTH",
            "1",
            "",
        ];
        for name in secrets {
            assert!(is_secret(name, "swordfish"), "{name}");
        }
        for name in others {
            assert!(!is_secret(name, "swordfish"), "{name}");
        }
        for secret in [
            "jdbc:postgresql://db/x?user=u&password=swordfish",
            "jdbc:sqlserver://db;databaseName=x;password=swordfish",
            "-----BEGIN EC PRIVATE KEY-----\nMHc",
        ] {
            assert!(is_secret("DB", secret), "{secret}");
        }
        for harmless in
            ["jdbc:postgresql://db/x?user=u&password=$(PW)", "-----BEGIN CERTIFICATE-----\nMII", "https://a/b?c=d"]
        {
            assert!(!is_secret("DB", harmless), "{harmless}");
        }
        for harmless in ["", "/run/secret", "$(OTHER)", "true", "8080", REMOVED] {
            assert!(!is_secret("DB_PASS", harmless), "{harmless}");
        }
    }
}
