//! Rights, requests and verdicts, on events as the API server writes them.

use std::{fs, path::PathBuf};

use serde_json::json;

use super::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rule(group: &str, resource: &str, verbs: &[&str], names: &[&str]) -> PolicyRule {
    let all = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(all(&[group])),
        resources: Some(all(&[resource])),
        verbs: all(verbs),
        resource_names: Some(all(names)),
        ..PolicyRule::default()
    }
}

fn event(account: Account, verb: &str, resource: &str, code: u16) -> Value {
    let user = format!("{SERVICE_ACCOUNT}{OPERATOR_NAMESPACE}:{}", account.name());
    let uri = format!("/api/v1/{resource}?labelSelector=app.kubernetes.io%2Fmanaged-by%3Dmultigres-operator&limit=5");
    json!({
        "stage": "ResponseComplete", "verb": verb, "user": {"username": user}, "requestURI": uri,
        "objectRef": {"resource": resource, "namespace": "n", "name": "x"}, "responseStatus": {"code": code},
    })
}

/// Both accounts did something, and all of it was right.
fn well(given: BTreeSet<Right>) -> Findings {
    let mut findings = Findings::new(given);
    // Whatever is listed as seldom used is given.
    for seldom in SELDOM {
        let (resource, verb) = (seldom.resources[0], seldom.verbs[0]);
        findings.given.extend(each(seldom.account, None, &rule(seldom.group, resource, &[verb], &[])));
    }
    findings.take(&event(Account::Controller, "list", "secrets", 200));
    findings.take(&event(Account::Admission, "list", "nodes", 200));
    findings
}

fn right(verb: &str, name: Option<&str>) -> BTreeSet<Right> {
    let names: Vec<&str> = name.into_iter().collect();
    each(Account::Controller, None, &rule("", "pods", &[verb], &names)).into_iter().collect()
}

#[test]
fn a_right_is_used_by_a_request_of_its_account_verb_resource_and_name() {
    let unused = |given: BTreeSet<Right>, event: &Value| {
        let mut findings = Findings::new(given);
        findings.take(event);
        !findings.unused.is_empty()
    };
    let event = |account, verb, code| event(account, verb, "pods", code);
    assert!(!unused(right("get", None), &event(Account::Controller, "get", 404)));
    assert!(!unused(right("get", Some("x")), &event(Account::Controller, "get", 200)));
    assert!(unused(right("get", Some("y")), &event(Account::Controller, "get", 200)));
    assert!(unused(right("get", None), &event(Account::Admission, "get", 200)));
    assert!(unused(right("get", None), &event(Account::Controller, "list", 200)));
    assert!(unused(right("get", None), &event(Account::Controller, "get", 403)), "it was not had");
    assert!(!unused(right("create", None), &event(Account::Controller, "patch", 201)), "an apply that creates");
    assert!(unused(right("create", None), &event(Account::Controller, "patch", 200)));
    let elsewhere = each(Account::Controller, Some("other"), &rule("", "pods", &["get"], &[]));
    assert!(unused(elsewhere.into_iter().collect(), &event(Account::Controller, "get", 200)));
}

#[test]
fn an_unused_right_is_wrong_only_where_all_stories_ran() {
    let findings = well(right("get", None));
    assert!(findings.judge(false).is_ok());
    let error = findings.judge(true).unwrap_err().to_string();
    assert_eq!(error, "given and never used: controller: get pods");
    assert_eq!(findings.unused(), ["controller: get pods (UNEXPECTED)"]);
    let excused = each(Account::Controller, None, &rule("", "configmaps", &["get"], &[]));
    assert!(well(excused.into_iter().collect()).judge(true).is_ok());
}

#[test]
fn a_refusal_is_always_wrong_unless_no_right_would_have_helped() {
    let mut findings = well(BTreeSet::new());
    let mut refused = event(Account::Controller, "create", "pods", 403);
    for reason in ["exceeded quota: no-pods", "error looking up service account n/s: serviceaccount \"s\" not found"] {
        refused["responseStatus"]["message"] = format!("pods \"x\" is forbidden: {reason}").into();
        findings.take(&refused);
    }
    assert!(findings.judge(false).is_ok());
    refused["responseStatus"]["message"] = "pods \"x\" is forbidden: User cannot create".into();
    findings.take(&refused);
    let error = findings.judge(false).unwrap_err().to_string();
    assert!(error.starts_with("refused 1 times: controller: create pods: "), "{error}");
}

#[test]
fn a_right_that_was_away_for_a_while_is_not_amiss() {
    let mut refused = event(Account::Controller, "create", "pods", 403);
    refused["responseStatus"]["message"] =
        "pods is forbidden: User \"u\" cannot create resource \"pods\" in API group \"\" in the namespace \"n\"".into();
    let judged = |given: BTreeSet<Right>, refused: &Value| {
        let mut findings = well(given);
        findings.take(refused);
        findings.judge(false)
    };
    assert!(judged(right("create", None), &refused).is_ok());
    assert!(judged(right("get", None), &refused).is_err(), "it is another one");
    refused["responseStatus"]["message"] = "admission webhook \"w\" denied the request: no".into();
    assert!(judged(right("create", None), &refused).is_err(), "roles had no part in it");
}

#[test]
fn a_right_that_was_there_for_a_while_is_not_amiss() {
    let reviews = |account, code| {
        let mut event = event(account, "create", "tokenreviews", code);
        event["objectRef"]["apiGroup"] = "authentication.k8s.io".into();
        event
    };
    let mut refused = reviews(Account::Admission, 403);
    refused["responseStatus"]["message"] =
        "tokenreviews is forbidden: User \"u\" cannot create resource \"tokenreviews\" in API group \"g\"".into();
    let mut findings = well(BTreeSet::new());
    findings.take(&refused);
    assert!(findings.judge(false).is_err(), "nobody has ever been allowed to");
    findings.take(&reviews(Account::Controller, 201));
    assert!(findings.judge(false).is_err(), "it was somebody else");
    findings.take(&reviews(Account::Admission, 201));
    assert!(findings.judge(false).is_ok());

    // What no feature takes along is missing now, whoever was allowed to before.
    findings.take(&event(Account::Controller, "get", "pods", 200));
    let mut refused = event(Account::Controller, "get", "pods", 403);
    refused["responseStatus"]["message"] = "User \"u\" cannot get resource \"pods\"".into();
    findings.take(&refused);
    assert!(findings.judge(false).is_err());
}

#[test]
fn secrets_and_config_maps_are_listed_by_our_label_alone() {
    for (resource, uri) in [
        ("secrets", "/api/v1/secrets?limit=500"),
        ("configmaps", "/api/v1/configmaps?labelSelector=team%3Da&watch=true"),
        ("secrets", "/api/v1/secrets"),
    ] {
        let mut findings = well(BTreeSet::new());
        let mut seen = event(Account::Controller, "watch", resource, 200);
        seen["stage"] = "ResponseStarted".into();
        findings.take(&seen);
        assert!(findings.judge(false).is_ok());
        seen["requestURI"] = uri.into();
        findings.take(&seen);
        let error = findings.judge(false).unwrap_err().to_string();
        assert_eq!(error, format!("not by our label, 1 times: watch {uri}"));
    }
    let mut findings = well(BTreeSet::new());
    findings.by_label = 0;
    assert!(findings.judge(false).is_err(), "a log without any proves nothing");
}

#[test]
fn a_log_of_one_account_alone_proves_nothing() {
    let mut findings = well(BTreeSet::new());
    findings.requests.remove(&Account::Admission);
    assert!(findings.judge(false).unwrap_err().to_string().contains("nothing was looked at"));
}

#[test]
fn rights_are_those_of_roles_that_are_bound_to_our_accounts() {
    let subject = |name: &str| json!([{"kind": "ServiceAccount", "name": name, "namespace": OPERATOR_NAMESPACE}]);
    let meta = |name: &str| json!({"name": name, "namespace": "a"});
    let reading = |resource: &str| json!([{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]);
    let reference =
        |kind: &str, name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
    let roles = Rbac {
        cluster_roles: vec![
            serde_json::from_value(json!({"metadata": {"name": "wide"}, "rules": reading("pods")})).unwrap(),
            serde_json::from_value(json!({"metadata": {"name": "lent"}, "rules": reading("nodes")})).unwrap(),
        ],
        cluster_bindings: vec![
            serde_json::from_value(json!({
                "metadata": {"name": "wide"}, "roleRef": reference("ClusterRole", "wide"), "subjects": subject(CONTROLLER_USER),
            }))
            .unwrap(),
            serde_json::from_value(json!({
                "metadata": {"name": "other"}, "roleRef": reference("ClusterRole", "lent"), "subjects": subject("somebody"),
            }))
            .unwrap(),
        ],
        roles: vec![serde_json::from_value(json!({"metadata": meta("narrow"), "rules": reading("secrets")})).unwrap()],
        bindings: vec![
            serde_json::from_value(json!({
                "metadata": meta("narrow"), "roleRef": reference("Role", "narrow"), "subjects": subject(ADMISSION_USER),
            }))
            .unwrap(),
            serde_json::from_value(json!({
                "metadata": meta("lent"), "roleRef": reference("ClusterRole", "lent"), "subjects": subject(ADMISSION_USER),
            }))
            .unwrap(),
        ],
    };
    let lines: Vec<String> = roles.rights().iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["controller: get pods", "admission: get nodes in a", "admission: get secrets in a"]);
}

#[test]
fn each_rule_of_the_chart_names_a_module_that_needs_it() {
    let chart = root().join("charts/multigres-operator");
    let mut files: Vec<PathBuf> = ["files/rbac", "templates/rbac"]
        .iter()
        .flat_map(|folder| fs::read_dir(chart.join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let exists = |module: &str| {
        ["controller/src", "admission/src", "shared/src"].iter().any(|of| root().join(of).join(module).is_file())
    };
    let mut rules = 0;
    for file in files {
        let (text, mut comment) = (fs::read_to_string(&file).unwrap(), String::new());
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.starts_with('#') {
                comment.push_str(line);
                continue;
            }
            if line.starts_with("- apiGroups:") {
                rules += 1;
                let modules: Vec<&str> = comment
                    .split('`')
                    .skip(1)
                    .step_by(2)
                    .filter(|word| Path::new(word).extension().is_some_and(|kind| kind == "rs"))
                    .collect();
                let place = format!("{}:{}", file.display(), number + 1);
                assert!(!modules.is_empty(), "{place}: the rule names no module");
                for module in modules {
                    assert!(exists(module), "{place}: there is no {module}");
                }
            }
            comment.clear();
        }
    }
    assert!(rules > 25, "only {rules} rules were found");
}
