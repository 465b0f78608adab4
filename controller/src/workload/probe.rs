//! HTTP probes with the periods that all workloads share.

use k8s_openapi::{
    api::core::v1::{HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

/// How often readiness and start are asked for, in seconds.
const SOON: i32 = 5;
/// How often life is asked for, in seconds.
const SELDOM: i32 = 10;
/// Failures in a row that end a start: 150 s.
const START_FAILURES: i32 = 30;

/// Gives a process 150 s to answer for the first time.
pub fn startup(path: &str, port: i32) -> Probe {
    Probe { failure_threshold: Some(START_FAILURES), ..get(path, port, SOON) }
}

/// Restarts a process that no longer answers.
pub fn liveness(path: &str, port: i32) -> Probe {
    get(path, port, SELDOM)
}

/// Keeps traffic away while a process cannot serve.
pub fn readiness(path: &str, port: i32) -> Probe {
    get(path, port, SOON)
}

fn get(path: &str, port: i32, period: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(port),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        ..Probe::default()
    }
}
