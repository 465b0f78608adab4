//! The Kubernetes that a story runs on.

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Pod, ResourceQuota, ResourceQuotaSpec},
    storage::v1::StorageClass,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    helm::Tools,
    leftover::Leftover,
    wait::{until, within},
};

/// Names the kubeconfig of a cluster that has the operator installed.
pub const KUBECONFIG: &str = "MULTIGRES_STORY_KUBECONFIG";
/// Names the API server's audit log, for stories that count writes.
pub const AUDIT_LOG: &str = "MULTIGRES_STORY_AUDIT_LOG";
/// Namespace that the chart is installed into.
pub const OPERATOR_NAMESPACE: &str = "multigres-operator";
/// The quota that lets no pods start.
const NO_PODS: &str = "no-pods";
/// How the controller's pods are found.
const CONTROLLER: &str = "app.kubernetes.io/component=controller";

/// Whether the long form of a story was asked for.
pub fn is_long() -> bool {
    rounds() > 1
}

/// Whether the short form, which is the present one, leaves out what costs as much as is said: that it is left out is told.
pub fn is_left_out(cost: &str) -> bool {
    if !is_long() {
        eprintln!("SKIPPED: {cost}, and belongs to the long form; `make stories` has it");
    }
    !is_long()
}

/// How often a story that is worth repeating is repeated: `MULTIGRES_STORY_FORM` is `short`, `long` or `soak`.
pub fn rounds() -> u32 {
    match env::var("MULTIGRES_STORY_FORM").as_deref() {
        Ok("soak") => 40,
        Ok("long") => 5,
        _ => 1,
    }
}

/// A Kubernetes with the operator in it.
#[derive(Clone)]
pub struct Bed {
    /// Administrator's client.
    pub client: Client,
    /// The API server's audit log, if this story may read it.
    pub audit_log: Option<PathBuf>,
    /// Goes with the last clone.
    leftover: Arc<Leftover>,
}

impl Bed {
    /// Connects to the bed that the environment names. Without one the story is skipped loudly, and fails where CI requires it.
    pub async fn connect() -> Result<Option<Self>> {
        let Some(path) = env::var_os(KUBECONFIG) else {
            let message =
                format!("SKIPPED: {KUBECONFIG} does not name a cluster with the operator; `make test` prepares one");
            anyhow::ensure!(env::var_os("MULTIGRES_STORIES_REQUIRED").is_none(), message);
            eprintln!("{message}");
            return Ok(None);
        };
        // A second installation is harmless: all tests of a process share one provider.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let client = Client::try_from(config(Path::new(&path)).await?)?;
        let leftover = Arc::new(Leftover::new(Tools::from_env().ok()));
        Ok(Some(Self { client, audit_log: env::var_os(AUDIT_LOG).map(PathBuf::from), leftover }))
    }

    /// The same bed by a client that takes every answer as it is. The usual one asks again for minutes where the API server calls something
    /// unavailable, and a webhook that cannot judge has it say just that.
    pub async fn impatient(&self) -> Result<Self> {
        let path = env::var_os(KUBECONFIG).with_context(|| format!("{KUBECONFIG} is not set"))?;
        let mut config = config(Path::new(&path)).await?;
        config.default_retry = false;
        let client = Client::try_from(config)?;
        Ok(Self { client, ..self.clone() })
    }

    /// Makes a namespace of this story's own, which goes with the story should it fail.
    pub async fn namespace(&self, story: &str) -> Result<String> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let mut namespace = Namespace::default();
        namespace.metadata.generate_name = Some(format!("{story}-"));
        let made = api.create(&PostParams::default(), &namespace).await.context("making a namespace")?;
        let name = made.metadata.name.context("the API server names it")?;
        self.leftover.made(&name);
        Ok(name)
    }

    /// Lets no more pods start in a namespace; those that run stay.
    pub async fn forbid_pods(&self, namespace: &str) -> Result<()> {
        let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), namespace);
        let mut quota = ResourceQuota::default();
        quota.metadata.name = Some(NO_PODS.to_owned());
        let none = [("pods".to_owned(), Quantity("0".to_owned()))].into();
        quota.spec = Some(ResourceQuotaSpec { hard: Some(none), ..ResourceQuotaSpec::default() });
        api.create(&PostParams::default(), &quota).await.context("forbidding pods")?;
        until("the quota to count", within(30), || async {
            let used = api.get(NO_PODS).await?.status.and_then(|status| status.used);
            used.map(drop).context("the quota was not counted yet")
        })
        .await
    }

    /// Lets pods start again, if they may not.
    pub async fn allow_pods(&self, namespace: &str) -> Result<()> {
        let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), namespace);
        if api.get_opt(NO_PODS).await.context("asking whether pods may start")?.is_some() {
            api.delete(NO_PODS, &DeleteParams::default()).await.context("allowing pods")?;
        }
        Ok(())
    }

    /// Removes a namespace and waits until it is gone.
    pub async fn remove_namespace(&self, name: &str) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        api.delete(name, &DeleteParams::default()).await?;
        until("the namespace's removal", within(180), || async {
            match api.get_opt(name).await? {
                None => Ok(()),
                Some(left) => anyhow::bail!("{:?}", left.status),
            }
        })
        .await?;
        self.leftover.removed(name);
        Ok(())
    }

    /// Makes a storage class like the default one, under one of the names that the bed's provisioner would serve.
    pub async fn make_storage_class(&self, name: &str) -> Result<()> {
        let api: Api<StorageClass> = Api::all(self.client.clone());
        // A try that ended early may have left it.
        if api.get_opt(name).await?.is_none() {
            let mut class = api.get("local-path").await?;
            class.metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
            api.create(&PostParams::default(), &class).await?;
        }
        Ok(())
    }

    /// Removes a storage class, if it is there.
    pub async fn remove_storage_class(&self, name: &str) -> Result<()> {
        let api: Api<StorageClass> = Api::all(self.client.clone());
        if api.get_opt(name).await?.is_some() {
            api.delete(name, &DeleteParams::default()).await?;
        }
        Ok(())
    }

    /// Deletes the controller's pods without grace, as a crash would.
    pub async fn crash_controller(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), OPERATOR_NAMESPACE);
        pods.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default().labels(CONTROLLER))
            .await
            .context("deleting the controller's pods")?;
        Ok(())
    }

    /// Waits until the controller's Deployment is available again.
    pub async fn controller_ready(&self) -> Result<()> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), OPERATOR_NAMESPACE);
        until("an available controller", within(120), || async {
            let list = api.list(&ListParams::default().labels(CONTROLLER)).await?;
            let ready = list.items.iter().all(|d| {
                d.status
                    .as_ref()
                    .is_some_and(|s| s.available_replicas.unwrap_or(0) >= 1 && s.unavailable_replicas.unwrap_or(0) == 0)
            });
            anyhow::ensure!(ready && !list.items.is_empty(), "{} Deployments, not all available", list.items.len());
            Ok(())
        })
        .await
    }
}

/// How the administrator reaches the Kubernetes of a kubeconfig.
async fn config(path: &Path) -> Result<Config> {
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}
