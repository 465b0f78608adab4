//! Reads a pod object as the processes that it would run.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::flag::{self, Refusal, Values};
use crate::flag_table;
use crate::launch::Role;

/// A data-plane process of a pod.
#[derive(Clone, Debug)]
pub struct Process {
    /// Namespace and name of the pod.
    pub pod: String,
    /// The uid of the pod.
    pub uid: String,
    /// Which binary.
    pub role: Role,
    /// Its command line.
    pub values: Values,
}

/// The process of a running pod that registers itself, if it has one; a wrong command line is an error.
pub fn process(pod: &Pod) -> Result<Option<Process>, String> {
    if !is_running(pod) {
        return Ok(None);
    }
    let name = format!(
        "{}/{}",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default()
    );
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    for container in containers {
        let Some((role, args)) = command(container) else { continue };
        if !matches!(role, Role::Pooler | Role::Orch | Role::Gateway) {
            continue;
        }
        let values = flag::parse(role.program(), &flag_table::of(role), &args, |variable| env(container, variable))
            .map_err(|refusal| match refusal {
                Refusal::Wrong(text) => format!("{name}: {}: {text}", role.program()),
                Refusal::Help(_) => format!("{name}: {} only prints its help", role.program()),
            })?;
        for required in required(role) {
            if values.text(required).is_empty() {
                return Err(format!("{name}: {}: {required} is required", role.program()));
            }
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        return Ok(Some(Process { pod: name, uid, role, values }));
    }
    Ok(None)
}

fn required(role: Role) -> &'static [&'static str] {
    match role {
        Role::Pooler => {
            &["topo-global-server-addresses", "topo-global-root", "cell", "database", "table-group", "shard"]
        }
        Role::Orch => &["topo-global-server-addresses", "topo-global-root", "cell", "watch-targets"],
        _ => &["topo-global-server-addresses", "topo-global-root", "cell"],
    }
}

fn is_running(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

fn command(container: &Container) -> Option<(Role, Vec<String>)> {
    let words: Vec<String> =
        container.command.iter().flatten().chain(container.args.iter().flatten()).cloned().collect();
    let role = Role::from_program(words.first()?)?;
    let args = words[1..].iter().map(|word| expand(word, container)).collect();
    Some((role, args))
}

fn env(container: &Container, name: &str) -> Option<String> {
    container.env.iter().flatten().find(|variable| variable.name == name)?.value.clone()
}

/// Puts the values of plain variables where an argument says `$(NAME)`.
fn expand(word: &str, container: &Container) -> String {
    let mut text = word.to_owned();
    for variable in container.env.iter().flatten() {
        if let Some(value) = &variable.value {
            text = text.replace(&format!("$({})", variable.name), value);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{EnvVar, PodSpec, PodStatus};

    use super::*;

    fn pod(args: &[&str]) -> Pod {
        Pod {
            spec: Some(PodSpec {
                containers: vec![Container {
                    args: Some(args.iter().map(ToString::to_string).collect()),
                    env: Some(vec![EnvVar {
                        name: "ROOT".into(),
                        value: Some("/multigres".into()),
                        ..EnvVar::default()
                    }]),
                    ..Container::default()
                }],
                ..PodSpec::default()
            }),
            status: Some(PodStatus { phase: Some("Running".into()), ..PodStatus::default() }),
            ..Pod::default()
        }
    }

    const GOOD: &[&str] =
        &["multigateway", "--cell=a", "--topo-global-server-addresses=e:2379", "--topo-global-root=$(ROOT)/global"];

    #[test]
    fn a_gateway_pod_is_recognised_by_its_arguments() {
        let process = process(&pod(GOOD)).unwrap().unwrap();
        assert_eq!(process.role, Role::Gateway);
        assert_eq!(process.values.text("topo-global-root"), "/multigres/global");
    }

    #[test]
    fn a_wrong_command_line_is_an_error_and_not_a_registration() {
        let mut words = GOOD.to_vec();
        words.push("--nope");
        assert!(process(&pod(&words)).unwrap_err().contains("unknown flag: --nope"));
        assert!(process(&pod(&GOOD[..2])).unwrap_err().contains("is required"));
    }

    #[test]
    fn a_pod_that_does_not_run_has_no_process() {
        let mut waiting = pod(GOOD);
        waiting.status = None;
        assert!(process(&waiting).unwrap().is_none());
        assert!(process(&pod(&["etcd"])).unwrap().is_none());
    }
}
