//! Writes answers: AdmissionReviews for whoever has a uid, and a plain Status for everybody else.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Serialize, Serializer};

use super::envelope::Caller;
use crate::review::{Answer, Cause, Denial, Endpoint};

/// Longest warning that the API server promises to pass on, in characters.
const WARNING: usize = 256;
/// Longest sum of warnings that the API server passes on, in characters.
const WARNINGS: usize = 4096;
/// What is kept free for the sentence that says how many warnings were left out.
const REST: usize = 64;
/// When to ask again after a refusal that may pass.
const RETRY_SECONDS: u32 = 1;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Cow<'a, str>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "these are the names of Kubernetes")]
struct Status<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    metadata: Empty,
    status: &'static str,
    message: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details<'a>>,
    code: u16,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    group: &'static str,
    kind: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "causes")]
    causes: &'a [Cause],
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u32>,
}

#[derive(Serialize)]
struct WireCause<'a> {
    reason: &'static str,
    message: &'a str,
    field: &'a str,
}

fn causes<S: Serializer>(causes: &&[Cause], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(causes.iter().map(|cause| WireCause {
        reason: cause.reason,
        message: &cause.message,
        field: &cause.field,
    }))
}

/// Writes the answer for one caller; `name` is that of the object.
pub(super) fn write(
    endpoint: Endpoint,
    caller: &Caller,
    name: &str,
    answer: &Answer,
) -> Result<Vec<u8>, serde_json::Error> {
    let denial = answer.denial.as_ref();
    // A validating webhook must not send a patch, and a refusal has nothing to change.
    let patch = answer
        .patch
        .as_ref()
        .filter(|patch| endpoint == Endpoint::MutateCluster && denial.is_none() && !patch.0.is_empty())
        .map(|patch| serde_json::to_vec(patch).map(|patch| STANDARD.encode(patch)))
        .transpose()?;
    let review = Review {
        api_version: caller.version,
        kind: "AdmissionReview",
        response: Response {
            uid: &caller.uid,
            allowed: denial.is_none(),
            status: denial.map(|denial| status(endpoint, name, denial)),
            patch_type: patch.is_some().then_some("JSONPatch"),
            patch,
            warnings: shortened(&answer.warnings),
        },
    };
    serde_json::to_vec(&review)
}

fn status<'a>(endpoint: Endpoint, name: &'a str, denial: &'a Denial) -> Status<'a> {
    let passes = matches!(denial.code, 429 | 500 | 503 | 504);
    Status {
        api_version: None,
        kind: None,
        metadata: Empty {},
        status: "Failure",
        message: &denial.message,
        reason: denial.reason,
        details: Some(Details {
            name,
            group: "multigres.com",
            kind: endpoint.kind(),
            causes: &denial.causes,
            // Clients of Kubernetes ask again by themselves when they are told when.
            retry_after_seconds: passes.then_some(RETRY_SECONDS),
        }),
        code: denial.code,
    }
}

/// Writes a plain Status.
pub(super) fn plain(code: u16, reason: &str, message: &str) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Status {
        api_version: Some("v1"),
        kind: Some("Status"),
        metadata: Empty {},
        status: "Failure",
        message,
        reason,
        details: None,
        code,
    })
}

/// Makes warnings that the API server passes on: it cuts long ones, and drops all that follow when they are too much
/// together or when one holds a character that no header may hold.
fn shortened(warnings: &[String]) -> Vec<Cow<'_, str>> {
    let mut shortened = Vec::with_capacity(warnings.len());
    let mut left = WARNINGS;
    for (index, warning) in warnings.iter().enumerate() {
        let warning = printable(warning);
        let length = warning.chars().count();
        let taken = length.min(WARNING);
        let rest = warnings.len() - index - 1;
        let reserve = if rest == 0 { 0 } else { REST };
        if taken + reserve > left {
            shortened.push(Cow::Owned(format!("{} more warnings are left out", rest + 1)));
            break;
        }
        left -= taken;
        shortened.push(if length > WARNING {
            Cow::Owned(warning.chars().take(WARNING - 1).chain(['…']).collect())
        } else {
            warning
        });
    }
    shortened
}

fn printable(warning: &str) -> Cow<'_, str> {
    if warning.chars().any(char::is_control) {
        Cow::Owned(warning.replace(char::is_control, " "))
    } else {
        Cow::Borrowed(warning)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::envelope::VERSION, *};

    fn caller() -> Caller {
        Caller { uid: "u-1".to_owned(), version: VERSION }
    }

    fn written(endpoint: Endpoint, answer: &Answer) -> Value {
        serde_json::from_slice(&write(endpoint, &caller(), "demo", answer).unwrap()).unwrap()
    }

    fn patch() -> json_patch::Patch {
        serde_json::from_value(json!([{"op": "add", "path": "/spec/databases", "value": []}])).unwrap()
    }

    #[test]
    fn yes_says_no_more_than_yes() {
        let expected = json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": {"uid": "u-1", "allowed": true},
        });
        assert_eq!(written(Endpoint::ValidateShard, &Answer::default()), expected);
        let empty = Answer { patch: Some(json_patch::Patch(Vec::new())), ..Answer::default() };
        assert_eq!(written(Endpoint::MutateCluster, &empty), expected);
    }

    #[test]
    fn no_names_every_cause() {
        let denial = Denial {
            code: 403,
            reason: "Forbidden",
            message: "spec.cells: too many".to_owned(),
            causes: vec![Cause {
                reason: "FieldValueInvalid",
                field: "spec.cells".to_owned(),
                message: "too many".to_owned(),
            }],
        };
        let answer = Answer { denial: Some(denial), warnings: vec!["old".to_owned()], patch: Some(patch()) };
        let written = written(Endpoint::MutateCluster, &answer);
        assert_eq!(
            written["response"],
            json!({
                "uid": "u-1",
                "allowed": false,
                "warnings": ["old"],
                "status": {
                    "metadata": {},
                    "status": "Failure",
                    "message": "spec.cells: too many",
                    "reason": "Forbidden",
                    "code": 403,
                    "details": {
                        "name": "demo",
                        "group": "multigres.com",
                        "kind": "MultigresCluster",
                        "causes": [{"reason": "FieldValueInvalid", "message": "too many", "field": "spec.cells"}],
                    },
                },
            })
        );
    }

    #[test]
    fn refusal_that_may_pass_says_when_to_ask_again() {
        let answer = Answer { denial: Some(Denial::unavailable("later")), ..Answer::default() };
        let written = written(Endpoint::ValidateCell, &answer);
        assert_eq!(written["response"]["status"]["details"]["retryAfterSeconds"], 1);
    }

    #[test]
    fn only_the_mutating_webhook_sends_a_patch() {
        let answer = Answer { patch: Some(patch()), ..Answer::default() };
        let mutated = written(Endpoint::MutateCluster, &answer);
        assert_eq!(mutated["response"]["patchType"], "JSONPatch");
        let sent = STANDARD.decode(mutated["response"]["patch"].as_str().unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<json_patch::Patch>(&sent).unwrap(), patch());
        assert!(written(Endpoint::ValidateCluster, &answer)["response"].get("patch").is_none());
    }

    #[test]
    fn warnings_fit_the_budget_of_the_api_server() {
        let long = "é".repeat(300);
        let many = vec![long; 40];
        let shortened = shortened(&many);
        assert!(shortened.iter().all(|warning| warning.chars().count() <= WARNING));
        assert!(shortened.iter().map(|warning| warning.chars().count()).sum::<usize>() <= WARNINGS);
        let kept = shortened.len() - 1;
        assert_eq!(shortened[kept], format!("{} more warnings are left out", 40 - kept));
        assert!(shortened[0].ends_with('…'));
    }

    #[test]
    fn warnings_that_fit_stay_as_they_are() {
        let warnings: Vec<String> = (0..16).map(|_| "w".repeat(256)).collect();
        assert_eq!(shortened(&warnings), warnings);
        assert_eq!(shortened(&["a\nb".to_owned()]), ["a b"]);
    }
}
