use time::macros::datetime;

use super::*;

fn read(text: &str) -> Objects {
    let mut reader = Reader::new("shop");
    reader.text("all.yaml", text, Named::Itself);
    let ports = ClusterPorts::new(None, &[], &[]).unwrap();
    reader.facts(datetime!(2026-01-01 0:00 UTC), ports).objects
}

fn services(objects: &Objects) -> Vec<String> {
    let Observed::Seen(services) = &objects.services else { panic!("no services") };
    services.iter().map(|service| key(&service.metadata)).collect()
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n";

#[test]
fn a_bad_document_costs_itself_alone_and_is_named() {
    let objects = read(&format!("# first\n---\n{SERVICE}---\nkind: [\n---\n{}", SERVICE.replace("name: a", "name: b")));
    assert_eq!(services(&objects), ["shop/a", "shop/b"]);
    let [bad] = objects.unreadable.as_slice() else { panic!("{:?}", objects.unreadable) };
    assert_eq!(bad.place, "all.yaml, document 2");
    assert!(bad.reason.contains("line 7") || bad.reason.contains("line 8"), "{}", bad.reason);
}

#[test]
fn lists_and_json_are_read() {
    let list = r#"{"apiVersion":"v1","kind":"ServiceList","items":[{"metadata":{"name":"x","namespace":"n"}}]}"#;
    assert_eq!(services(&read(list)), ["n/x"]);
    let list = format!("apiVersion: v1\nkind: List\nitems:\n- {}", SERVICE.replace('\n', "\n  "));
    assert_eq!(services(&read(&list)), ["shop/a"]);
}

#[test]
fn an_alias_bomb_is_refused_at_once() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let refs = vec![format!("*a{}", i - 1); 9].join(", ");
        bomb += &format!("a{i}: &a{i} [{refs}]\n");
    }
    assert_eq!(read(&bomb).unreadable.len(), 1);
}

#[test]
fn a_depth_that_no_manifest_has_is_refused() {
    for text in ["[".repeat(100_000), "{\"a\":".repeat(100_000), "- ".repeat(50_000)] {
        assert_eq!(read(&text).unreadable.len(), 1);
    }
}

#[test]
fn what_is_no_object_matters_only_where_somebody_named_it() {
    assert_eq!(read("replicaCount: 3\n").unreadable.len(), 1);
    let mut reader = Reader::new("shop");
    reader.text("values.yaml", "replicaCount: 3\n", Named::ByDirectory);
    assert!(reader.objects.unreadable.is_empty());
}

#[test]
fn wrong_types_are_told_and_not_guessed() {
    let objects = read("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: 3}\n");
    assert!(objects.unreadable[0].reason.contains("no Service of v1"), "{:?}", objects.unreadable);
    assert_eq!(read("apiVersion: v1\nkind: Service\nmetadata: {}\n").unreadable.len(), 1);
}
