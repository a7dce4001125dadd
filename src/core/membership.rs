//! A cluster as one of its nodes sees it: what Akka's and Pekko's management answers, parsed.
//!
//! Invariant: no text here holds a control character: names come from strangers, and end in a terminal. What another
//! version of management leaves out or adds is no error; what is not about a cluster is.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::core::report::acts_on_terminals;

/// One node's view of the cluster: `/cluster/members/` of management.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct View {
    /// Who answers.
    pub self_node: Node,
    /// `None` for a node that has not joined, and while nobody is leader.
    pub leader: Option<Node>,
    /// None for a node that has not joined.
    pub members: Vec<Member>,
    /// The oldest member, where cluster singletons run.
    pub oldest: Option<Node>,
    /// The oldest member of each role.
    pub oldest_per_role: BTreeMap<String, Node>,
    /// Members that somebody does not hear.
    pub unreachable: Vec<Unreachable>,
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Its address.
    pub node: Node,
    /// Tells two lives at the same address apart; a signed number of 64 bits as text.
    pub uid: Option<String>,
    /// Where it stands in its life.
    pub status: MemberStatus,
    /// Its roles; `dc-…` names its data centre.
    pub roles: Vec<String>,
}

/// A member that somebody does not hear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreachable {
    /// Who is not heard.
    pub node: Node,
    /// By whom.
    pub observed_by: Vec<Node>,
}

/// What a node tells others that look for a cluster to join: `/bootstrap/seed-nodes` of management.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SeedNodes {
    /// Who answers.
    pub self_node: Node,
    /// Members that it knows; none while it has not joined.
    pub members: Vec<Member>,
}

/// A node's address, as in `pekko://shop@10.0.0.7:2552`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// akka, pekko, or akka.tcp and akka.ssl.tcp of classic remoting.
    pub scheme: String,
    /// The actor system's name, the same on every node of a cluster.
    pub system: String,
    /// Name or address, without brackets.
    pub host: String,
    /// Remoting's port, as others are to dial it.
    pub port: u16,
}

/// Where a member stands in its life (Akka documentation, "Cluster Membership Service").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberStatus {
    /// Known to all only when everybody has heard.
    Joining,
    /// Let in while somebody is unreachable.
    WeaklyUp,
    /// A full member.
    Up,
    /// The whole cluster is to be stopped.
    PreparingForShutdown,
    /// And this member may be.
    ReadyForShutdown,
    /// Wants to go.
    Leaving,
    /// Is being let go.
    Exiting,
    /// Given up by the others.
    Down,
    /// Gone.
    Removed,
    /// A word that this version of bypassctl does not know.
    Other(String),
}

impl MemberStatus {
    /// Whether it is on its way into the cluster.
    #[must_use]
    pub const fn arriving(&self) -> bool {
        matches!(self, Self::Joining | Self::WeaklyUp)
    }

    /// Whether it is on its way out, or gone.
    #[must_use]
    pub const fn going(&self) -> bool {
        matches!(self, Self::Leaving | Self::Exiting | Self::Down | Self::Removed)
    }
}

impl View {
    /// Reads an answer of `/cluster/members/`.
    ///
    /// # Errors
    /// What is missing or is not what it should be, with its place in the answer.
    pub fn parse(answer: &Value) -> Result<Self, String> {
        let oldest_per_role = match &answer["oldestPerRole"] {
            Value::Object(roles) => roles.iter(),
            Value::Null => return Self::with_oldest(answer, BTreeMap::new()),
            other => return Err(format!("oldestPerRole is no object: {}", short(other))),
        };
        let oldest_per_role = oldest_per_role
            .map(|(role, node)| Ok((printable(role), node_of(node, &format!("oldestPerRole.{}", printable(role)))?)))
            .collect::<Result<_, String>>()?;
        Self::with_oldest(answer, oldest_per_role)
    }

    fn with_oldest(answer: &Value, oldest_per_role: BTreeMap<String, Node>) -> Result<Self, String> {
        let unreachable = |one: &Value| {
            let observed_by = list(one, "observedBy")?.iter().map(|node| node_of(node, "unreachable.observedBy"));
            Ok(Unreachable {
                node: node_of(&one["node"], "unreachable.node")?,
                observed_by: observed_by.collect::<Result<_, String>>()?,
            })
        };
        Ok(Self {
            self_node: node_of(&answer["selfNode"], "selfNode")?,
            leader: optional_node(answer, "leader")?,
            members: members(answer, "members")?,
            oldest: optional_node(answer, "oldest")?,
            oldest_per_role,
            unreachable: list(answer, "unreachable")?.iter().map(unreachable).collect::<Result<_, String>>()?,
        })
    }

    /// Whether the node that answers belongs to a cluster.
    #[must_use]
    pub fn joined(&self) -> bool {
        self.members.iter().any(|member| member.node == self.self_node)
    }

    /// The member at this address.
    #[must_use]
    pub fn member(&self, node: &Node) -> Option<&Member> {
        self.members.iter().find(|member| member.node == *node)
    }
}

impl SeedNodes {
    /// Reads an answer of `/bootstrap/seed-nodes`.
    ///
    /// # Errors
    /// What is missing or is not what it should be, with its place in the answer.
    pub fn parse(answer: &Value) -> Result<Self, String> {
        Ok(Self { self_node: node_of(&answer["selfNode"], "selfNode")?, members: members(answer, "seedNodes")? })
    }
}

fn members(answer: &Value, field: &str) -> Result<Vec<Member>, String> {
    let member = |one: &Value| {
        let uid = match &one["nodeUid"] {
            Value::String(text) => Some(printable(text)),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let status = one["status"].as_str().ok_or_else(|| format!("{field}: a member without a status"))?;
        let roles = list(one, "roles")?.iter().filter_map(Value::as_str).map(printable).collect();
        let node = node_of(&one["node"], &format!("{field}.node"))?;
        Ok(Member { node, uid, status: MemberStatus::from(status), roles })
    };
    list(answer, field)?.iter().map(member).collect()
}

/// An absent list is an empty one.
fn list<'a>(value: &'a Value, field: &str) -> Result<&'a [Value], String> {
    match &value[field] {
        Value::Array(items) => Ok(items),
        Value::Null => Ok(&[]),
        other => Err(format!("{field} is no list: {}", short(other))),
    }
}

fn node_of(value: &Value, place: &str) -> Result<Node, String> {
    let text = value.as_str().ok_or_else(|| format!("{place} is no address of a node: {}", short(value)))?;
    text.parse().map_err(|error| format!("{place}: {error}"))
}

fn optional_node(answer: &Value, field: &str) -> Result<Option<Node>, String> {
    match &answer[field] {
        Value::Null => Ok(None),
        node => node_of(node, field).map(Some),
    }
}

/// As much of a value as fits into a message.
fn short(value: &Value) -> String {
    let text = printable(&value.to_string());
    let cut: String = text.chars().take(60).collect();
    if cut.len() < text.len() { cut + "…" } else { text }
}

/// The text with a replacement character for each that would act on a terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if acts_on_terminals(c) { '\u{fffd}' } else { c }).collect()
}

impl From<&str> for MemberStatus {
    fn from(text: &str) -> Self {
        match text {
            "Joining" => Self::Joining,
            "WeaklyUp" => Self::WeaklyUp,
            "Up" => Self::Up,
            "PreparingForShutdown" => Self::PreparingForShutdown,
            "ReadyForShutdown" => Self::ReadyForShutdown,
            "Leaving" => Self::Leaving,
            "Exiting" => Self::Exiting,
            "Down" => Self::Down,
            "Removed" => Self::Removed,
            other => Self::Other(printable(other)),
        }
    }
}

impl fmt::Display for MemberStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Joining => "Joining",
            Self::WeaklyUp => "WeaklyUp",
            Self::Up => "Up",
            Self::PreparingForShutdown => "PreparingForShutdown",
            Self::ReadyForShutdown => "ReadyForShutdown",
            Self::Leaving => "Leaving",
            Self::Exiting => "Exiting",
            Self::Down => "Down",
            Self::Removed => "Removed",
            Self::Other(word) => word,
        };
        f.pad(word)
    }
}

impl Serialize for MemberStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Node {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = printable(text);
        let wrong = || format!("{text:?} is no address of a node, such as pekko://shop@10.0.0.7:2552");
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let (system, address) = rest.rsplit_once('@').ok_or_else(wrong)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().map_err(|_| wrong())?;
        if scheme.is_empty() || system.is_empty() || host.is_empty() {
            return Err(wrong());
        }
        Ok(Self { scheme: scheme.to_owned(), system: system.to_owned(), host: host.to_owned(), port })
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, system, host, port } = self;
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        f.pad(&format!("{scheme}://{system}@{open}{host}{close}:{port}"))
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(host: &str) -> Node {
        Node { scheme: "pekko".to_owned(), system: "appka".to_owned(), host: host.to_owned(), port: 2552 }
    }

    #[test]
    fn a_member_s_view_is_read_whole() {
        let view = View::parse(&json!({
            "leader": "pekko://appka@10.77.0.11:2552",
            "members": [
                {"node": "pekko://appka@10.77.0.11:2552", "nodeUid": "-4755119466437087417", "roles": ["dc-default"],
                    "status": "Up"},
                {"node": "pekko://appka@10.77.0.12:2552", "nodeUid": "77", "roles": ["dc-default", "web"],
                    "status": "WeaklyUp"}
            ],
            "oldest": "pekko://appka@10.77.0.11:2552",
            "oldestPerRole": {"dc-default": "pekko://appka@10.77.0.11:2552"},
            "selfNode": "pekko://appka@10.77.0.12:2552",
            "unreachable": [{"node": "pekko://appka@10.77.0.13:2552", "observedBy": ["pekko://appka@10.77.0.11:2552"]}],
            "added": {"later": true}
        }))
        .unwrap();
        assert_eq!(view.self_node, node("10.77.0.12"));
        assert_eq!(view.leader, Some(node("10.77.0.11")));
        assert_eq!(view.oldest, view.leader);
        assert_eq!(view.oldest_per_role["dc-default"], node("10.77.0.11"));
        assert!(view.joined());
        let member = view.member(&node("10.77.0.11")).unwrap();
        assert_eq!((member.uid.as_deref(), &member.status), (Some("-4755119466437087417"), &MemberStatus::Up));
        assert!(view.members[1].status.arriving());
        assert_eq!(view.members[1].roles, ["dc-default", "web"]);
        let unreachable = Unreachable { node: node("10.77.0.13"), observed_by: vec![node("10.77.0.11")] };
        assert_eq!(view.unreachable, [unreachable]);
    }

    #[test]
    fn a_node_that_has_not_joined_has_no_leader_and_no_members() {
        let lonely =
            json!({"members": [], "oldestPerRole": {}, "selfNode": "akka://appka@10.0.0.1:2552", "unreachable": []});
        let view = View::parse(&lonely).unwrap();
        assert!(!view.joined() && view.leader.is_none() && view.oldest.is_none());
        let bare = View::parse(&json!({"selfNode": "akka://appka@10.0.0.1:2552", "leader": null})).unwrap();
        assert_eq!(view, bare);
    }

    #[test]
    fn seed_nodes_have_a_uid_that_is_a_signed_number() {
        let seeds = SeedNodes::parse(&json!({
            "seedNodes": [{"node": "pekko://appka@10.77.0.11:2552", "nodeUid": -1479742735002339956_i64,
                "roles": ["dc-default"], "status": "Up"}],
            "selfNode": "pekko://appka@10.77.0.11:2552"
        }))
        .unwrap();
        assert_eq!(seeds.members[0].uid.as_deref(), Some("-1479742735002339956"));
    }

    #[test]
    fn an_address_is_read_and_written_alike() {
        for text in [
            "akka://appka@10.0.0.1:25520",
            "akka.tcp://ClusterSystem@host-0.hosts.shop.svc:2552",
            "pekko://appka@[fd00::7]:17355",
        ] {
            assert_eq!(text.parse::<Node>().unwrap().to_string(), text);
        }
        assert_eq!("pekko://appka@[fd00::7]:17355".parse::<Node>().unwrap().host, "fd00::7");
        for text in
            ["", "akka://appka", "akka://appka@10.0.0.1", "akka://@10.0.0.1:1", "akka://a@:1", "akka://a@b:65536"]
        {
            assert!(text.parse::<Node>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_cluster_says_what_is_missing() {
        let error = |answer| View::parse(&answer).unwrap_err();
        assert_eq!(error(json!("<html>")), "selfNode is no address of a node: null");
        let node = "akka://a@b:1";
        assert!(error(json!({"selfNode": node, "members": 3})).contains("members is no list: 3"));
        assert!(error(json!({"selfNode": node, "members": [{"node": node}]})).contains("without a status"));
        assert!(error(json!({"selfNode": node, "leader": "b"})).starts_with("leader: \"b\" is no address"));
        assert!(error(json!({"selfNode": node, "oldestPerRole": []})).contains("oldestPerRole"));
    }

    #[test]
    fn what_a_stranger_sent_cannot_write_to_the_terminal() {
        let node = "akka://a\u{1b}[2J@b:1";
        let view = View::parse(&json!({
            "selfNode": node, "members": [{"node": node, "status": "U\np", "roles": ["\u{7}"]}]
        }))
        .unwrap();
        assert!(!format!("{view:?}{}{}", view.self_node, view.members[0].status).contains(char::is_control));
        assert!(!View::parse(&json!({"selfNode": "\u{1b}[2J"})).unwrap_err().contains(char::is_control));
        assert_eq!(printable("a\u{202e}b\u{200b}"), "a\u{fffd}b\u{fffd}", "what reorders and what hides");
    }
}
