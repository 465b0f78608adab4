//! Where the keys of a bucket come from, and what is said while nobody has them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{EnvVar, PodSpec, SecretKeySelector};
use rstest::rstest;
use serde_json::json;
use shared::{
    api::v1alpha1::{KeyPrefixScope, S3BackupConfig, Shard},
    condition,
};

use super::fixture::*;
use crate::{
    plan::Action,
    shard::{Observed, Reference},
};

/// Two pods with backups in a bucket.
fn on_s3(change: impl FnOnce(&mut S3BackupConfig)) -> Shard {
    let mut shard = shard(
        "demo",
        &json!({
            "pools": { "default": { "cells": ["zone-a"], "replicasPerCell": 2 } },
            "backup": { "type": "s3", "s3": { "bucket": "b", "region": "r", "useEnvCredentials": true } },
        }),
    );
    change(s3(&mut shard));
    shard
}

fn s3(shard: &mut Shard) -> &mut S3BackupConfig {
    shard.spec.backup.as_mut().unwrap().s3.as_mut().unwrap()
}

fn unchanged(_: &mut S3BackupConfig) {}

/// The variables of both containers that come from a Secret; they have the same.
fn from_secret(observed: &Observed) -> Vec<(String, SecretKeySelector)> {
    let pods = pass(observed).writes.into_iter().filter_map(|write| match write.action {
        Action::CreateOnce(object) if object.gvk.kind == "Pod" => Some(object.value),
        _ => None,
    });
    let pod: PodSpec = serde_json::from_value(pods.last().unwrap()["spec"].clone()).unwrap();
    let named = |name: &str| {
        let all = pod.init_containers.iter().flatten().chain(&pod.containers);
        let env = all.filter(|container| container.name == name).flat_map(|container| container.env.iter().flatten());
        env.filter_map(|variable| Some((variable.name.clone(), variable.value_from.clone()?.secret_key_ref?)))
            .collect::<Vec<_>>()
    };
    assert_eq!(named("postgres"), named("multipooler"));
    named("multipooler")
}

fn said(observed: &Observed) -> Option<(String, String)> {
    let plan = pass(observed);
    let status = plan.status.unwrap();
    let found = condition::find(&status.conditions, "CredentialsMissing").cloned();
    let event = plan.notes.iter().any(|note| note.warning && note.reason == "CredentialsMissing");
    assert!(!event || found.is_some());
    found.map(|found| (found.reason, found.message))
}

#[test]
fn keys_from_the_environment_come_from_the_secret_of_the_cluster_if_it_is_there() {
    let found = from_secret(&observed(on_s3(unchanged)));
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]);
    for (name, reference) in &found {
        assert_eq!(
            (&reference.key, reference.name.as_str(), reference.optional),
            (name, "demo-s3-credentials", Some(true))
        );
    }
}

#[test]
fn a_secret_that_is_named_is_needed() {
    let found = from_secret(&observed(on_s3(|s3| s3.credentials_secret = Some("aws".to_owned()))));
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|(_, reference)| reference.name == "aws" && reference.optional.is_none()), "{found:?}");
}

#[rstest]
#[case::identity_of_the_node(|s3: &mut S3BackupConfig| s3.use_env_credentials = None)]
#[case::switched_off(|s3: &mut S3BackupConfig| s3.use_env_credentials = Some(false))]
#[case::service_account(|s3: &mut S3BackupConfig| {
    (s3.use_env_credentials, s3.service_account_name) = (None, Some("backup".to_owned()));
})]
fn without_keys_from_the_environment_none_are_looked_for(#[case] change: fn(&mut S3BackupConfig)) {
    let observed = observed(on_s3(change));
    assert!(from_secret(&observed).is_empty());
    assert_eq!((said(&observed), &observed.bucket_keys), (None, &None));
}

#[rstest]
#[case::absent(Reference::Absent, "SecretNotFound", "Secret demo-s3-credentials does not exist")]
#[case::no_key(Reference::NoKey("AWS_ACCESS_KEY_ID".to_owned()), "KeyNotFound", "no value under the key AWS_ACCESS_KEY_ID")]
fn missing_keys_are_told_and_hold_up_nothing(#[case] seen: Reference, #[case] reason: &str, #[case] message: &str) {
    let mut without = observed(on_s3(unchanged));
    assert_eq!(said(&without), None);
    let pods = written(&pass(&without), "Pod");
    without.bucket_keys = Some(seen.clone());
    let (why, words) = said(&without).unwrap();
    assert_eq!(why, reason);
    assert!(words.contains(message) && words.contains("create it with the keys"), "{words}");
    assert_eq!(written(&pass(&without), "Pod"), pods);

    let mut running = healthy(on_s3(unchanged));
    let phase = status(&running).phase;
    running.bucket_keys = Some(seen);
    assert!(said(&running).is_some());
    assert_eq!(status(&running).phase, phase);
}

#[test]
fn what_cannot_be_read_changes_nothing_that_was_said() {
    let mut observed = healthy(on_s3(unchanged));
    observed.bucket_keys = Some(Reference::Unreadable("Forbidden"));
    assert_eq!(said(&observed), None);
    observed.bucket_keys = Some(Reference::Absent);
    remember(&mut observed);
    observed.bucket_keys = Some(Reference::Unreadable("Forbidden"));
    assert_eq!(said(&observed).unwrap().0, "SecretNotFound");
}

#[test]
fn keys_that_somebody_else_gives_are_not_missed() {
    let mut observed = healthy(on_s3(unchanged));
    observed.bucket_keys = Some(Reference::Absent);
    let pod = members(&observed.shard)[0].clone();
    with_pod(&mut observed, &pod, |pod| {
        let pooler = pod.spec.as_mut().unwrap().containers.iter_mut().find(|one| one.name == "multipooler").unwrap();
        let own = EnvVar { name: "AWS_ACCESS_KEY_ID".into(), value: Some("injected".into()), ..EnvVar::default() };
        let env = pooler.env.as_mut().unwrap();
        env.retain(|variable| variable.name != own.name);
        env.push(own);
    });
    assert_eq!(said(&observed), None);
}

#[test]
fn pods_from_before_there_were_optional_keys_stay_as_they_are() {
    for (scope, outdated) in [(None, false), (Some(KeyPrefixScope::Cluster), true)] {
        let mut observed = healthy(on_s3(|s3| (s3.use_env_credentials, s3.key_prefix_scope) = (None, scope)));
        s3(Arc::make_mut(&mut observed.shard)).use_env_credentials = Some(true);
        observed.bucket_keys = Some(Reference::Present);
        assert_eq!(!status(&observed).drift.is_empty(), outdated, "{scope:?}");
    }
}
