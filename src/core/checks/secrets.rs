//! Whether a secret stands in the environment or in the command line, where everybody who may read pods reads it.

use k8s_openapi::api::core::v1::Container;

use crate::core::checks::Findings;
use crate::core::checks::subject::Subject;
use crate::core::facts::REMOVED;

/// Words that say so, alone or at the end of another (`PGPASSWORD`, `keyStorePassword`).
const ENDS: [&str; 7] = ["PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "APIKEY", "ACCOUNTKEY", "ACCESSKEY"];
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
    is_named_so(name) && may_be_one(name, value.trim()) || has_secret(value)
}

/// Whether what stands behind a secret's name is one, and no switch, number, file, reference, or name of a Secret.
fn may_be_one(name: &str, value: &str) -> bool {
    const SWITCHES: [&str; 10] = ["true", "false", "none", "null", "yes", "no", "on", "off", "enabled", "disabled"];
    let is_reference = (value.starts_with("$(") && value.ends_with(')'))
        || (value.starts_with("${") && value.ends_with('}'))
        || value.starts_with("{{")
        // What is left of `${NAME}` in a text that is taken apart at braces.
        || value == "$";
    let is_number =
        value.parse::<u16>().is_ok() || value.parse::<u64>().is_ok() && name.to_ascii_uppercase().ends_with("TOKEN");
    // TLS_SECRET=shop-tls
    let in_small_words = value.contains('-') && value.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let is_a_secret_s_name = in_small_words && name.to_ascii_uppercase().ends_with("SECRET");
    !value.is_empty()
        && value != REMOVED
        && !is_reference
        && !is_number
        && !is_a_secret_s_name
        && !value.starts_with('/')
        && !SWITCHES.contains(&value.to_ascii_lowercase().as_str())
}

/// Whether a secret stands in a text, whoever it belongs to: `-Ddb.password=…`, `--token=…`, `password="…"` (JAAS),
/// `AccountKey=…`, `"secret": "…"`, `Bearer …`, an address with a password, a private key (PEM, RFC 7468).
pub(in crate::core) fn has_secret(text: &str) -> bool {
    const PEM: &str = "-----BEGIN ";
    let in_url = |text: &str| {
        text.split("://")
            .skip(1)
            .filter_map(|rest| rest.split(['/', ' ', '"', '\'', '?']).next()?.rsplit_once('@'))
            .any(|(user, _)| {
                user.split_once(':').is_some_and(|(_, password)| !password.is_empty() && !password.starts_with('$'))
            })
    };
    let bearer = text.strip_prefix("Bearer ").or_else(|| text.strip_prefix("Basic "));
    text.split(PEM).skip(1).any(|rest| rest.split("-----").next().is_some_and(|kind| kind.ends_with("PRIVATE KEY")))
        || in_url(text)
        || bearer.is_some_and(|token| token.len() >= 8 && !token.starts_with('$'))
        || assignments(text).any(|(name, value)| is_named_so(name) && may_be_one(name, value))
}

/// Names and values of whatever looks like an assignment in a text.
fn assignments(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let quotes: &[char] = &['"', '\'', ' '];
    let parts = text.split(|c: char| c.is_whitespace() || ";,&?{}".contains(c));
    parts.filter_map(move |part| {
        let (name, value) = part.split_once('=').or_else(|| part.split_once(':'))?;
        let name = name.trim_start_matches("-J").trim_start_matches("-D").trim_start_matches('-').trim_matches(quotes);
        Some((name, value.trim_matches(quotes)))
    })
}

/// Whether an option's value is a secret where the value is an argument of its own: `--token VALUE`.
pub(in crate::core) fn takes_secret(option: &str, value: &str) -> bool {
    option.starts_with("--")
        && !option.contains('=')
        && !value.starts_with('-')
        && is_secret(option.trim_start_matches('-'), value)
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
        let found = plain.filter(|(name, value)| is_secret(name, value));
        let found = found.map(|(name, _)| format!("{name} of container {}", container.name));
        let arguments = container.command.iter().flatten().chain(container.args.iter().flatten());
        let arguments: Vec<&String> = arguments.into_iter().collect();
        let in_arguments = arguments.iter().any(|argument| has_secret(argument))
            || arguments.windows(2).any(|pair| takes_secret(pair[0], pair[1]));
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
        for (name, value) in [
            ("TLS_SECRET", "shop-tls"),
            ("VERIFY_PASSWORD", "yes"),
            ("USE_TOKEN", "off"),
            ("MAX_NEW_TOKEN", "100000"),
            ("JAVA_TOOL_OPTIONS", "-Dssl.password=${PW} -Xmx1g"),
            ("COMMAND", "--token-file=/run/token"),
        ] {
            assert!(!is_secret(name, value), "{name}={value}");
        }
        for (name, value) in [
            ("DB_PASS", "12345678"),
            ("DB_PASS", "a$(b"),
            ("KAFKA", "org.apache.kafka.PlainLoginModule required username=\"u\" password=\"swordfish\";"),
            ("STORAGE", "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=c3dvcmRmaXNo"),
            ("SPRING_APPLICATION_JSON", "{\"db\": {\"password\":\"swordfish\"}}"),
            ("AUTH", "Bearer c3dvcmRmaXNo"),
            ("X", "PGPASSWORD=swordfish java -jar x"),
            ("X", "--db-password=swordfish"),
            ("X", "-Dakka.cluster.seed-nodes.0=akka://x:pw@h:1"),
        ] {
            assert!(is_secret(name, value), "{name}={value}");
        }
        assert!(takes_secret("--token", "swordfish") && !takes_secret("--token", "--other"));
        for harmless in ["", "/run/secret", "$(OTHER)", "true", "8080", REMOVED] {
            assert!(!is_secret("DB_PASS", harmless), "{harmless}");
        }
    }
}
