//! Users who may do what the chart lets a controller do, and nothing else.

use std::{fs, path::Path};

use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
};
use serde_json::{Value, json};

use super::{Bed, DEADLINE, KINDS, Running, create, eventually, resource, wire::Wire, within};

const GROUP: &str = "rbac.authorization.k8s.io";

impl Bed {
    /// A client with the rights of `user`.
    pub fn client_as(&self, user: &str) -> Client {
        let mut config = self.config.clone();
        config.auth_info.impersonate = Some(user.to_owned());
        Client::try_from(config).unwrap()
    }

    /// Starts a controller with the rights of `user` that watches the namespaces of some beds, and waits until it works.
    pub async fn start_as(&self, user: &str, beds: &[&Self]) -> Running {
        let mut config = self.config.clone();
        config.auth_info.impersonate = Some(user.to_owned());
        let namespaces: Vec<String> = beds.iter().map(|bed| bed.namespace.clone()).collect();
        let mut running = self.launch_with(config, Wire::unconfined(namespaces.clone()), namespaces, |_| ());
        running.etcd.extend(beds.iter().map(|bed| bed.play_etcd()));
        let ready = running.ready.take().unwrap();
        within("watches are complete", ready).await.expect("the controller ended");
        running
    }

    /// Gives `user` the rights of a file of the chart in this namespace, and waits until they are in force.
    pub async fn grant(&self, user: &str, file: &str) {
        let version = format!("{GROUP}/v1");
        create(&self.api_of(&version, "Role", "roles"), role("Role", "granted", file)).await;
        create(&self.api_of(&version, "RoleBinding", "rolebindings"), binding("Role", "granted", user)).await;
        let (version, kind, plural) = KINDS[0];
        let resource = resource(version, kind, plural);
        let api = Api::<DynamicObject>::namespaced_with(self.client_as(user), &self.namespace, &resource);
        eventually(DEADLINE, async || api.list(&ListParams::default()).await.map_err(|error| error.to_string())).await;
    }

    /// Gives `user` the rights of a file of the chart in the whole cluster.
    pub async fn grant_everywhere(&self, user: &str, file: &str) {
        let version = format!("{GROUP}/v1");
        let all = |kind, plural| Api::all_with(self.client.clone(), &resource(&version, kind, plural));
        let name = self.namespace.as_str();
        create(&all("ClusterRole", "clusterroles"), role("ClusterRole", name, file)).await;
        create(&all("ClusterRoleBinding", "clusterrolebindings"), binding("ClusterRole", name, user)).await;
    }
}

fn role(kind: &str, name: &str, file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/multigres-operator/files/rbac").join(file);
    let rules: Value = serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert!(rules.as_array().is_some_and(|rules| !rules.is_empty()));
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": {"name": name}, "rules": rules})
}

fn binding(role: &str, name: &str, user: &str) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": format!("{role}Binding"), "metadata": {"name": name},
        "roleRef": {"apiGroup": GROUP, "kind": role, "name": name},
        "subjects": [{"apiGroup": GROUP, "kind": "User", "name": user}],
    })
}
