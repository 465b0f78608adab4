//! Requests that no API server would send, or that carry what no user should write.

use admission::review::Endpoint;
use serde_json::{Value, json};
use strum::IntoEnumIterator as _;

use super::{
    envelope::Question,
    random::Random,
    specs::{self, odd},
};

/// What has to come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// A review with this uid.
    Review(String),
    /// A refusal of the request itself.
    Refusal,
    /// Either of them.
    Any,
}

/// A request.
pub struct Hostile {
    /// What is wrong with it.
    pub what: &'static str,
    /// Where it goes.
    pub endpoint: Endpoint,
    /// Its content type.
    pub content_type: &'static str,
    /// Its body.
    pub body: Vec<u8>,
    /// What has to come back.
    pub due: Due,
}

const UID: &str = "e911857d-c318-11e8-bbad-025000000001";
const JSON: &str = "application/json";

/// A hostile request.
pub fn request(random: &mut Random) -> Hostile {
    let endpoints: Vec<Endpoint> = Endpoint::iter().collect();
    let endpoint = *random.pick(&endpoints);
    match random.below(10) {
        0..=5 => object(random, endpoint),
        6 | 7 => envelope(random, endpoint),
        _ => bytes(random, endpoint),
    }
}

/// A sound question with one hole, into which any JSON text can be put.
fn around(random: &mut Random, endpoint: Endpoint, object: &str) -> Vec<u8> {
    const HOLE: &str = "the-hole";
    let mut question = Question {
        kind: endpoint.kind().to_owned(),
        namespace: specs::NAMESPACE.to_owned(),
        name: "hostile".to_owned(),
        user: random.pick(&["mallory", "", "system:anonymous", "\u{202e}größe"]).to_string(),
        old: None,
        object: Some(json!(HOLE)),
    };
    match random.below(5) {
        0 => question.old = Some(json!(HOLE)),
        1 => question.old = Some(specs::valid(random, false)),
        2 => {
            question.old = Some(json!(HOLE));
            question.object = None;
        }
        _ => {}
    }
    question.review(UID).to_string().replace(&format!("\"{HOLE}\""), object).into_bytes()
}

/// A sound envelope around an odd object.
fn object(random: &mut Random, endpoint: Endpoint) -> Hostile {
    let mut cluster = specs::valid(random, true);
    cluster["kind"] = json!(endpoint.kind());
    let fields = [
        "cells",
        "databases",
        "backup",
        "images",
        "multiadmin",
        "globalTopoServer",
        "pools",
        "externalGateway",
        "logLevels",
    ];
    let field = *random.pick(&fields);
    let (what, text) = match random.below(12) {
        0 => ("an object that is none", odd(random).to_string()),
        1 => {
            cluster["spec"][field] = odd(random);
            ("a field of another type", cluster.to_string())
        }
        2 => {
            cluster["spec"] = odd(random);
            ("a spec of another type", cluster.to_string())
        }
        3 => {
            cluster["metadata"] = odd(random);
            ("metadata of another type", cluster.to_string())
        }
        4 => {
            let (open, close) = *random.pick(&[("[", "]"), ("{\"a\":", "}"), ("{\"spec\":[", "]}")]);
            let depth = *random.pick(&[20, 100, 126, 127, 128, 129, 1000, 20_000]);
            let deep = format!("{}null{}", open.repeat(depth), close.repeat(depth));
            cluster["spec"][field] = json!("the-depth");
            ("deep nesting", cluster.to_string().replace("\"the-depth\"", &deep))
        }
        5 => (huge(random, &mut cluster, field), cluster.to_string()),
        6 => {
            let text = *random.pick(&[
                r#""\ud800""#,
                r#""\udc00\ud800""#,
                r#""\u0000""#,
                r#""\u202e😀é""#,
                "\"\u{feff}\"",
                "\"\u{10ffff}\"",
            ]);
            cluster["spec"][field] = json!([{"name": "the-text"}]);
            ("odd characters", cluster.to_string().replace("\"the-text\"", text))
        }
        7 => {
            let number = *random.pick(&[
                "1e999",
                "-1e999",
                "123456789012345678901234567890",
                "1.0",
                "-0",
                "0.1e-400",
                "9223372036854775808",
            ]);
            cluster["spec"]["cells"] = json!([{"name": "a", "spec": {"multigateway": {"replicas": "the-number"}}}]);
            ("odd numbers", cluster.to_string().replace("\"the-number\"", number))
        }
        8 => (
            "a key twice",
            r#"{"metadata":{"name":"a","name":7},"spec":{"cells":[]},"spec":{"cells":7},"kind":1}"#.to_owned(),
        ),
        9 => {
            let name = random.pick(&["", "/", "../../etc", "😀", "UPPER", "a\u{0}b", "-", "x y"]);
            let name: &str = name;
            cluster["metadata"]["name"] = json!(name);
            cluster["spec"]["cells"] = json!([{"name": name}, {"name": name}]);
            cluster["spec"]["databases"] = json!([{"name": name, "tablegroups": [{"name": name, "shards": [{"name": name,
                "spec": {"pools": {name: {"cells": [name, name]}}, "postgresConfig": {name: name}}}]}]}]);
            ("odd names", cluster.to_string())
        }
        10 => {
            let many = |key: &str, value: Value| -> Value {
                (0..400).map(|index| (format!("{key}{index}"), value.clone())).collect()
            };
            let pool = json!({"cells": (0..200).map(|cell| format!("c{cell}")).collect::<Vec<_>>()});
            let shard =
                json!({"name": "0-inf", "spec": {"pools": many("p", pool), "postgresConfig": many("k", json!("v"))}});
            cluster["spec"]["databases"] =
                json!([{"name": "postgres", "tablegroups": [{"name": "default", "shards": [shard]}]}]);
            ("far too many pools", cluster.to_string())
        }
        _ => {
            cluster["metadata"] = json!({
                "name": "a", "namespace": odd(random), "deletionTimestamp": odd(random), "annotations": odd(random),
                "labels": odd(random), "managedFields": odd(random), "finalizers": odd(random),
            });
            ("odd metadata", cluster.to_string())
        }
    };
    Hostile {
        what,
        endpoint,
        content_type: JSON,
        body: around(random, endpoint, &text),
        due: Due::Review(UID.to_owned()),
    }
}

/// Something big, though within the limit of a body where it stands once.
fn huge(random: &mut Random, cluster: &mut Value, field: &str) -> &'static str {
    // Bodies of megabytes are costly to make and to read, so most are smaller.
    let size = if random.chance(10) { 2_000_000 } else { 100_000 };
    match random.below(3) {
        0 => {
            cluster["metadata"]["annotations"] = json!({"a": "x".repeat(size)});
            "a huge annotation"
        }
        1 => {
            let cells: Vec<Value> =
                (0..size / 100).map(|index| json!({"name": format!("cell-{index}"), "zone": "z"})).collect();
            cluster["spec"]["cells"] = json!(cells);
            "very many cells"
        }
        _ => {
            cluster["spec"][field] = json!("é".repeat(size));
            "a huge string"
        }
    }
}

/// An envelope that is wrong itself, though JSON.
fn envelope(random: &mut Random, endpoint: Endpoint) -> Hostile {
    let object = specs::valid(random, false);
    let mut review = Question { kind: endpoint.kind().to_owned(), ..Question::create(&object) }.review(UID);
    let request = &mut review["request"];
    let due = Due::Review(UID.to_owned());
    let (what, due) = match random.below(9) {
        0 => {
            let keys =
                ["name", "namespace", "userInfo", "dryRun", "subResource", "operation", "kind", "resource", "options"];
            request[*random.pick(&keys)] = odd(random);
            ("a field of the envelope has another type", due)
        }
        1 => {
            request["operation"] =
                random.pick(&[json!("EXPLODE"), json!("CONNECT"), json!("create"), Value::Null]).clone();
            ("an unknown operation", due)
        }
        2 => {
            request["operation"] = random.pick(&[json!("UPDATE"), json!("DELETE")]).clone();
            ("no old object", due)
        }
        3 => {
            request.as_object_mut().unwrap().remove(*random.pick(&["object", "operation", "userInfo", "name"]));
            ("a part of the envelope is missing", due)
        }
        4 => {
            request["uid"] = random.pick(&[Value::Null, json!(7), json!(["a"]), json!({})]).clone();
            ("the uid is no string", Due::Refusal)
        }
        5 => {
            request.as_object_mut().unwrap().remove("uid");
            ("the uid is missing", Due::Refusal)
        }
        6 => {
            review["request"] = odd(random);
            ("the request is none", Due::Refusal)
        }
        7 => {
            let version = random.pick(&["admission.k8s.io/v1beta1", "admission.k8s.io/v2", "", "v1"]).to_string();
            review["apiVersion"] = json!(version);
            ("another version of the envelope", Due::Any)
        }
        _ => {
            request["subResource"] = json!(random.pick(&["scale", "status", "😀"]));
            ("a subresource", due)
        }
    };
    Hostile { what, endpoint, content_type: JSON, body: review.to_string().into_bytes(), due }
}

/// A body that is no envelope at all.
fn bytes(random: &mut Random, endpoint: Endpoint) -> Hostile {
    let cluster = specs::valid(random, false).to_string();
    let whole = around(random, endpoint, &cluster);
    let mut content_type = JSON;
    let (what, body, due) = match random.below(9) {
        0 => ("nothing", Vec::new(), Due::Refusal),
        1 => ("a cut body", whole[..random.below(whole.len())].to_vec(), Due::Any),
        2 => ("noise", (0..random.below(4000)).map(|_| random.word().to_le_bytes()[0]).collect(), Due::Refusal),
        3 => {
            let mut body = whole;
            let at = random.below(body.len());
            body[at] = *random.pick(&[0xff, 0xc0, 0x80, 0x00]);
            ("a broken byte", body, Due::Any)
        }
        4 => ("nothing but depth", "[".repeat(100_000).into_bytes(), Due::Refusal),
        5 => {
            let mut body = whole;
            body.extend_from_slice(random.pick(&["}", "{}", "\u{0}", "true"]).as_bytes());
            ("something behind the end", body, Due::Any)
        }
        6 => {
            content_type = *random.pick::<&str>(&[
                "text/plain",
                "",
                "application/x-www-form-urlencoded",
                "application/vnd.kubernetes.protobuf",
            ]);
            ("another content type", whole, Due::Any)
        }
        7 => ("another JSON text", odd(random).to_string().into_bytes(), Due::Refusal),
        _ if random.chance(5) => {
            let text = json!({"metadata": {"annotations": {"a": "x".repeat(8 << 20)}}}).to_string();
            ("a body above the limit", around(random, endpoint, &text), Due::Any)
        }
        _ => ("a truncated escape", br#"{"request":{"uid":"\u12"#.to_vec(), Due::Refusal),
    };
    Hostile { what, endpoint, content_type, body, due }
}
