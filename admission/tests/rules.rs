//! Every case of the rules, judged by the pure function and by the service over HTTP: the same verdict in the same words.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use support::{
    case::{NAMESPACE, all, endpoint, pure, question},
    service::{self, InProcess as _},
    world,
};

#[actix_web::test]
async fn the_service_says_of_every_case_what_the_function_says() {
    let mut failures = Vec::new();
    let cases = all();
    for case in &cases {
        let expected = pure(case, NAMESPACE);
        let http = service::http(world::reviewer(world::of_case(case, NAMESPACE))).await;
        let answer = http.ask(endpoint(&case.kind), &question(case, NAMESPACE)).await;
        let mut fail = |what: String| failures.push(format!("{} ({}): {what}", case.case, case.file));
        if expected.allowed != case.expect.deny.is_empty() {
            fail(format!("the function says {expected:?}"));
        }
        if answer.allowed != expected.allowed
            || answer.causes != expected.causes
            || answer.message != expected.message
            || answer.warnings != expected.warnings
        {
            fail(format!("the function says\n  {expected:?}\nthe service\n  {answer:?}"));
        }
        for (deny, [reason, field, message]) in case.expect.deny.iter().zip(&answer.causes) {
            if !field.ends_with(&deny.path) || *reason != deny.reason || !message.contains(&deny.message) {
                fail(format!("expected {deny:?}, got {reason} {field}: {message}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {} cases differ:\n{}", failures.len(), cases.len(), failures.join("\n"));
    assert!(cases.len() > 100, "only {} cases were found", cases.len());
}
