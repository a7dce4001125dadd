//! Prints the manifests of these tests for those that apply them to a real API server: one JSON object a line.

mod broken;

use serde_json::json;

fn main() {
    for (name, text) in broken::HEALTHY {
        println!("{}", json!({"what": format!("healthy: {name}"), "text": text, "codes": []}));
    }
    for case in broken::cases() {
        println!("{}", json!({"what": case.what, "text": case.text(), "codes": case.codes}));
    }
}
