//! Reads an AdmissionReview.
//!
//! The usual one is read in a single pass that copies no object. What cannot be read that way is looked through once
//! more for its uid alone, as far as it is JSON at all, because whoever can be named gets an answer.

use std::{borrow::Cow, cell::RefCell, fmt, marker::PhantomData};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

use crate::review::{Denial, Endpoint, Operation, Request, User};

/// The version of the review that we speak.
pub(super) const VERSION: &str = "admission.k8s.io/v1";
/// A version that had its time; who speaks it is at least refused in it.
const OLD_VERSION: &str = "admission.k8s.io/v1beta1";
const KIND: &str = "AdmissionReview";
const GROUP: &str = "multigres.com";
const OBJECT_VERSION: &str = "v1alpha1";

/// Who has to be answered, and in which version of the review.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub uid: String,
    pub version: &'static str,
}

/// What a body turned out to be.
#[derive(Debug)]
pub(super) enum Body<'a> {
    /// A question.
    Question(Box<Request<'a>>),
    /// Not a question for us, from somebody who can be told so.
    Refused(Caller, Denial),
    /// Nothing that can be answered.
    Unreadable(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(borrow, default)]
    api_version: Cow<'a, str>,
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    request: Object<WireRequest<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireRequest<'a> {
    uid: String,
    #[serde(borrow, default)]
    kind: Option<Object<WireKind<'a>>>,
    #[serde(borrow, default)]
    resource: Option<Object<WireResource<'a>>>,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(borrow, default)]
    operation: Cow<'a, str>,
    #[serde(default)]
    user_info: Option<Object<User>>,
    #[serde(borrow, default)]
    object: Option<&'a RawValue>,
    #[serde(borrow, default)]
    old_object: Option<&'a RawValue>,
    #[serde(default)]
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
struct WireKind<'a> {
    #[serde(borrow, default)]
    group: Cow<'a, str>,
    #[serde(borrow, default)]
    version: Cow<'a, str>,
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
struct WireResource<'a> {
    #[serde(borrow, default)]
    group: Cow<'a, str>,
    #[serde(borrow, default)]
    resource: Cow<'a, str>,
}

/// Something written as an object. A struct of ours could be written as a list of its fields as well, which is nothing
/// that an API server does or should get an answer for.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// Reads the body of a request to an endpoint.
pub(super) fn read(endpoint: Endpoint, body: &[u8]) -> Body<'_> {
    let wire = match serde_json::from_slice::<Object<Wire<'_>>>(body) {
        Ok(Object(wire)) => wire,
        Err(error) => return blurred(body, &error),
    };
    if wire.request.0.uid.is_empty() {
        return Body::Unreadable("request.uid is empty".to_owned());
    }
    match fault(endpoint, &wire) {
        Err(message) => {
            let caller = Caller { version: answer_version(&wire.api_version), uid: wire.request.0.uid };
            Body::Refused(caller, Denial::unreadable(message))
        }
        Ok(operation) => {
            let request = wire.request.0;
            Body::Question(Box::new(Request {
                uid: request.uid,
                operation,
                name: request.name.unwrap_or_default(),
                namespace: request.namespace.unwrap_or_default(),
                sub_resource: request.sub_resource,
                user_info: request.user_info.map(|Object(user)| user).unwrap_or_default(),
                object: request.object,
                old_object: request.old_object,
                dry_run: request.dry_run,
            }))
        }
    }
}

/// Finds out what is wrong with a review that could be read; its operation when nothing is.
fn fault(endpoint: Endpoint, wire: &Wire<'_>) -> Result<Operation, String> {
    if wire.kind != KIND || wire.api_version != VERSION {
        let (version, kind) = (&wire.api_version, &wire.kind);
        return Err(format!("{kind:?} of version {version:?} is not spoken here: send {KIND} of version {VERSION}"));
    }
    let (expected, request) = (endpoint.kind(), &wire.request.0);
    if let Some(Object(resource)) = &request.resource {
        // Every plural of ours is the lower-case kind and an s.
        let ours = resource
            .resource
            .strip_suffix('s')
            .is_some_and(|singular| singular.eq_ignore_ascii_case(expected) && resource.group == GROUP);
        if !ours {
            let (resource, group) = (&resource.resource, &resource.group);
            return Err(format!(
                "{resource:?} of group {group:?} do not belong here: {} is for {expected}",
                endpoint.path()
            ));
        }
    }
    // The object of a subresource, such as scale, is of a kind of its own.
    let whole = request.sub_resource.as_deref().is_none_or(str::is_empty);
    if let Some(Object(kind)) = request.kind.as_ref().filter(|_| whole)
        && (kind.kind != expected || kind.group != GROUP || kind.version != OBJECT_VERSION)
    {
        let WireKind { group, version, kind } = kind;
        return Err(format!(
            "a {kind:?} of \"{group}/{version}\" does not belong here: {} is for {expected} of {GROUP}/{OBJECT_VERSION}",
            endpoint.path()
        ));
    }
    match request.operation.as_ref() {
        "CREATE" => Ok(Operation::Create),
        "UPDATE" => Ok(Operation::Update),
        "DELETE" => Ok(Operation::Delete),
        "CONNECT" => Ok(Operation::Connect),
        other => Err(format!("operation {other:?} is unknown: use CREATE, UPDATE, DELETE or CONNECT")),
    }
}

fn answer_version(version: &str) -> &'static str {
    if version == OLD_VERSION { OLD_VERSION } else { VERSION }
}

/// Answers what could not be read as a review, as far as there is somebody to answer.
fn blurred<'a>(body: &'a [u8], error: &serde_json::Error) -> Body<'a> {
    let found = Found::default();
    let mut reader = serde_json::Deserializer::from_slice(body);
    // The result says nothing new: the body is broken. What counts is what was found until then.
    let _ = Outer(&found).deserialize(&mut reader);
    let (uid, version) = (found.uid.take(), found.version.take());
    match uid.filter(|uid| !uid.is_empty()) {
        None => Body::Unreadable(format!("the body is no {KIND} with a uid: {error}")),
        Some(uid) => {
            let version = answer_version(version.as_deref().unwrap_or(VERSION));
            Body::Refused(Caller { uid, version }, Denial::unreadable(format!("the {KIND} cannot be read: {error}")))
        }
    }
}

/// What was found in a broken body, kept outside so that it outlives the error.
#[derive(Default)]
struct Found {
    uid: RefCell<Option<String>>,
    version: RefCell<Option<String>>,
}

/// Reads over any value, and returns it when it is text. Deep nesting costs no stack, since nothing is descended into.
fn text<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<String>, A::Error> {
    let raw: &RawValue = map.next_value()?;
    Ok(serde_json::from_str(raw.get()).ok())
}

struct Outer<'f>(&'f Found);

impl<'de> DeserializeSeed<'de> for Outer<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Outer<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a review")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match key.as_ref() {
                "apiVersion" => *self.0.version.borrow_mut() = text(&mut map)?,
                "request" => map.next_value_seed(Inner(self.0))?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct Inner<'f>(&'f Found);

impl<'de> DeserializeSeed<'de> for Inner<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Inner<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key == "uid" {
                *self.0.uid.borrow_mut() = text(&mut map)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn review() -> Value {
        json!({
            "apiVersion": VERSION,
            "kind": KIND,
            "request": {
                "uid": "u-1",
                "kind": {"group": GROUP, "version": OBJECT_VERSION, "kind": "Shard"},
                "resource": {"group": GROUP, "version": OBJECT_VERSION, "resource": "shards"},
                "operation": "UPDATE",
                "name": "main",
                "namespace": "prod",
                "userInfo": {"username": "eva", "groups": ["dba"], "extra": {"a": ["b"]}},
                "object": {"spec": {"x": 1}},
                "oldObject": null,
                "dryRun": true,
                "options": {"kind": "UpdateOptions"},
            },
        })
    }

    fn refused(endpoint: Endpoint, review: &Value) -> (Caller, Denial) {
        let body = serde_json::to_vec(review).unwrap();
        match read(endpoint, &body) {
            Body::Refused(caller, denial) => (caller, denial),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn question_keeps_its_objects_as_they_came() {
        let body = serde_json::to_vec(&review()).unwrap();
        let Body::Question(request) = read(Endpoint::ValidateShard, &body) else { panic!() };
        assert_eq!(request.object.unwrap().get(), r#"{"spec":{"x":1}}"#);
        assert!(request.old_object.is_none());
        assert_eq!((request.uid.as_str(), request.operation), ("u-1", Operation::Update));
        assert_eq!((request.name.as_str(), request.namespace.as_str()), ("main", "prod"));
        assert_eq!((request.user_info.username.as_str(), request.dry_run), ("eva", Some(true)));
    }

    #[test]
    fn scale_of_a_shard_is_a_question_about_shards() {
        let mut review = review();
        review["request"]["subResource"] = json!("scale");
        review["request"]["kind"] = json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
        let body = serde_json::to_vec(&review).unwrap();
        assert!(matches!(read(Endpoint::ValidateShard, &body), Body::Question(_)));
    }

    #[rstest]
    #[case("/apiVersion", json!("admission.k8s.io/v2"), "not spoken here")]
    #[case("/kind", json!("Review"), "not spoken here")]
    #[case("/request/operation", json!("PATCH"), "\"PATCH\" is unknown")]
    #[case("/request/operation", json!(5), "cannot be read")]
    #[case("/request/userInfo", json!("eva"), "cannot be read")]
    #[case("/request/dryRun", json!("yes"), "cannot be read")]
    #[case("/request/kind/kind", json!("Cell"), "\"Cell\" of \"multigres.com/v1alpha1\" does not belong here")]
    #[case("/request/kind/version", json!("v1"), "does not belong here")]
    #[case("/request/resource/resource", json!("cells"), "do not belong here")]
    #[case("/request/resource/group", json!("apps"), "do not belong here")]
    fn whoever_can_be_named_is_told_what_is_wrong(#[case] at: &str, #[case] value: Value, #[case] words: &str) {
        let mut review = review();
        *review.pointer_mut(at).unwrap() = value;
        let (caller, denial) = refused(Endpoint::ValidateShard, &review);
        assert_eq!(caller, Caller { uid: "u-1".to_owned(), version: VERSION });
        assert_eq!((denial.code, denial.reason), (400, "BadRequest"));
        assert!(denial.message.contains(words), "{}", denial.message);
    }

    #[test]
    fn old_version_is_refused_in_its_own_words() {
        let mut review = review();
        review["apiVersion"] = json!(OLD_VERSION);
        let (caller, denial) = refused(Endpoint::ValidateShard, &review);
        assert_eq!(caller.version, OLD_VERSION);
        assert!(denial.message.contains("send AdmissionReview of version admission.k8s.io/v1"), "{}", denial.message);
    }

    #[rstest]
    #[case::two_documents(br#"{"apiVersion":"admission.k8s.io/v1beta1","request":{"uid":"u"}} {}"#)]
    #[case::cut_off(br#"{"apiVersion":"admission.k8s.io/v1beta1","request":{"uid":"u","object":{"a":"#)]
    #[case::not_utf8(b"{\"apiVersion\":\"admission.k8s.io/v1beta1\",\"request\":{\"uid\":\"u\",\"object\":\"\xff\"}}")]
    #[case::repeated(br#"{"apiVersion":"admission.k8s.io/v1beta1","request":{"name":"a","name":"b","uid":"u"}}"#)]
    fn uid_is_found_in_a_broken_body(#[case] body: &[u8]) {
        match read(Endpoint::ValidateCell, body) {
            Body::Refused(caller, _) => {
                assert_eq!(caller, Caller { uid: "u".to_owned(), version: OLD_VERSION });
            }
            other => panic!("{other:?}"),
        }
    }

    #[rstest]
    #[case::empty(b"")]
    #[case::no_object(b"[]")]
    #[case::no_request(br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#)]
    #[case::no_uid(
        br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"operation":"CREATE"}}"#
    )]
    #[case::empty_uid(
        br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"","operation":"CREATE"}}"#
    )]
    #[case::uid_is_a_number(br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":7}}"#)]
    #[case::request_is_a_list(br#"{"request":["uid"]}"#)]
    fn nobody_can_be_answered_without_a_uid(#[case] body: &[u8]) {
        assert!(matches!(read(Endpoint::ValidateCell, body), Body::Unreadable(_)));
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        let head = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"operation":"CREATE""#;
        let question = format!(r#"{head},"uid":"u","object":{deep}}}}}"#);
        assert!(matches!(read(Endpoint::ValidateCell, question.as_bytes()), Body::Question(_)));
        let broken = format!(r#"{head},"uid":{deep}}}}}"#);
        assert!(matches!(read(Endpoint::ValidateCell, broken.as_bytes()), Body::Unreadable(_)));
    }
}
