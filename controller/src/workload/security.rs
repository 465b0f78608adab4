//! Security contexts: every process runs under an explicit user that is not root, without capabilities.

use k8s_openapi::api::core::v1::{Capabilities, PodSecurityContext, SeccompProfile, SecurityContext};

/// User of the data-plane images.
pub const MULTIGRES: i64 = 65532;
/// User of the multiadmin-web image.
pub const WEB: i64 = 1001;
/// User that etcd runs as; its image names none.
pub const ETCD: i64 = 65532;

/// Pod-level context for a process that runs as `user` and, with `fs_group`, owns its volumes through that group.
pub fn pod(user: i64, fs_group: Option<i64>) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(user),
        run_as_group: Some(user),
        fs_group,
        // A volume whose root already belongs to the group is not walked again at each start.
        fs_group_change_policy: fs_group.map(|_| "OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
        ..PodSecurityContext::default()
    }
}

/// Container-level context: nothing gained at run time, nothing kept from the start.
pub fn container() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
        ..SecurityContext::default()
    }
}
