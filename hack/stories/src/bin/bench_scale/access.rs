//! The API server of the benchmark: definitions, and a controller's account with the rights that the chart gives it.

use std::{fmt::Debug, fs, io::Write as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::{
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::{Namespace, Node, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::{await_condition, conditions},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shared::api::v1alpha1::MultigresCluster;
use stories::{audit::CONTROLLER_USER, bed::OPERATOR_NAMESPACE, until, within};
use tempfile::NamedTempFile;

/// Who applies what the benchmark needs.
const MANAGER: &str = "multigres-bench";
/// What the chart lets a controller of all namespaces do.
const RIGHTS: [&str; 4] =
    ["controller.yaml", "controller-nodes.yaml", "controller-classes.yaml", "controller-drains.yaml"];
/// How long the controller's token is good, in seconds.
const TOKEN: i64 = 24 * 60 * 60;

/// An API server that is ready for a controller.
pub struct Access {
    /// The administrator's client.
    pub client: Client,
    controller: NamedTempFile,
}

impl Access {
    /// Installs what the chart would, but for programs.
    pub async fn prepare(kubeconfig: &Path) -> Result<Self> {
        let (client, host) = connect(kubeconfig).await?;
        ensure!(
            ["127.0.0.1", "::1", "[::1]", "localhost"].contains(&host.as_str()),
            "the API server is at {host}: this load is for one of this machine (`hack/bench.sh scale`)"
        );
        install_definitions(&client).await?;
        let clusters = Api::<MultigresCluster>::all(client.clone()).list(&ListParams::default().limit(1)).await?;
        ensure!(clusters.items.is_empty(), "this API server has clusters already");
        install_account(&client).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), OPERATOR_NAMESPACE);
        let spec = TokenRequestSpec { expiration_seconds: Some(TOKEN), ..TokenRequestSpec::default() };
        let wanted = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let answer = accounts.create_token_request(CONTROLLER_USER, &PostParams::default(), &wanted).await;
        let answer = answer.context("asking for the controller's token")?;
        let token = answer.status.and_then(|status| status.token).context("no token in the answer")?;
        let controller = kubeconfig_with(kubeconfig, &token)?;
        // The API server hears of rights a little later than it stores them.
        let nodes: Api<Node> = Api::all(connect(controller.path()).await?.0);
        let list = ListParams::default().limit(1);
        until("the controller's rights", within(60), || async { Ok(nodes.list(&list).await.map(drop)?) }).await?;
        Ok(Self { client, controller })
    }

    /// The controller's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        self.controller.path()
    }
}

async fn connect(path: &Path) -> Result<(Client, String)> {
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("reading {}", path.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let host = config.cluster_url.host().unwrap_or_default().to_owned();
    Ok((Client::try_from(config)?, host))
}

/// The same server with the token of another user, in a file that only this user may read.
fn kubeconfig_with(path: &Path, token: &str) -> Result<NamedTempFile> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut value: Value = serde_saphyr::from_str(&text).context("parsing the kubeconfig")?;
    for user in value["users"].as_array_mut().context("the kubeconfig has users")? {
        user["user"] = json!({"token": token});
    }
    let mut file = NamedTempFile::new().context("making the controller's kubeconfig")?;
    file.write_all(&serde_json::to_vec(&value)?)?;
    file.flush()?;
    Ok(file)
}

async fn install_definitions(client: &Client) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in shared::api::crds() {
        let name = definition.name_any();
        let params = PatchParams::apply(MANAGER).force();
        api.patch(&name, &params, &Patch::Apply(&definition)).await.with_context(|| format!("installing {name}"))?;
        let established = await_condition(api.clone(), &name, conditions::is_crd_established());
        tokio::time::timeout(within(60), established).await.with_context(|| format!("{name} is not served"))??;
    }
    Ok(())
}

async fn install_account(client: &Client) -> Result<()> {
    let mut rules = vec![
        // Of a Role of its own in the chart.
        json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}),
    ];
    for file in RIGHTS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/multigres-operator/files/rbac").join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let more: Vec<Value> = serde_saphyr::from_str(&text).with_context(|| format!("parsing {}", path.display()))?;
        rules.extend(more);
    }
    let group = "rbac.authorization.k8s.io";
    apply(
        &Api::<Namespace>::all(client.clone()),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}}),
    )
    .await?;
    apply(
        &Api::<ServiceAccount>::namespaced(client.clone(), OPERATOR_NAMESPACE),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": CONTROLLER_USER}}),
    )
    .await?;
    let version = format!("{group}/v1");
    apply(
        &Api::<ClusterRole>::all(client.clone()),
        json!({"apiVersion": version, "kind": "ClusterRole", "metadata": {"name": CONTROLLER_USER}, "rules": rules}),
    )
    .await?;
    apply(
        &Api::<ClusterRoleBinding>::all(client.clone()),
        json!({
            "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": {"name": CONTROLLER_USER},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": CONTROLLER_USER},
            "subjects": [{"kind": "ServiceAccount", "name": CONTROLLER_USER, "namespace": OPERATOR_NAMESPACE}],
        }),
    )
    .await
}

/// Applies an object; what is there already is no error.
pub async fn apply<K>(api: &Api<K>, object: Value) -> Result<()>
where
    K: Clone + DeserializeOwned + Debug,
{
    let name = object["metadata"]["name"].as_str().context("an object has a name")?.to_owned();
    let params = PatchParams::apply(MANAGER).force();
    let applied = api.patch(&name, &params, &Patch::Apply(object)).await;
    applied.map(drop).with_context(|| format!("applying {name}"))
}
