//! A cluster beside the release: what it consists of, and that nothing of it is made anew, lost, restarted or rewritten.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use stories::{
    ClusterUnderTest,
    audit::{CONTROLLER_USER, Mark},
    helm::Apply,
    inventory::{self, Identity},
    lesson, released, within,
};

use super::operator::Operator;

/// The cluster has to be Healthy again this many seconds after the operator is.
const HEALTHY: u64 = 120;
/// Then the controller has to write nothing for so many seconds.
const QUIET: u64 = 10;
/// How long the cluster is left without any operator.
const ALONE: Duration = Duration::from_secs(10);

/// What must not change.
#[derive(Clone, Debug)]
struct Lives {
    /// Every object of the cluster's namespace.
    objects: BTreeMap<String, Identity>,
    /// Every pod of the cluster, with how often its containers were started.
    starts: BTreeMap<String, (String, i32)>,
    /// Our definitions.
    definitions: BTreeMap<String, Identity>,
}

/// A cluster that lives on, whatever happens to the operator.
pub struct Beside<'o> {
    operator: &'o Operator,
    cluster: ClusterUnderTest,
    log: PathBuf,
    before: Lives,
}

impl<'o> Beside<'o> {
    /// Makes one, and waits until it is Healthy and nobody writes anything about it any more.
    pub async fn begin(operator: &'o Operator) -> Result<Self> {
        let bed = &operator.bed;
        let log = bed.audit_log.clone().context("the audit log of the bed")?;
        let namespace = bed.namespace("release").await?;
        let cluster = ClusterUnderTest::apply(bed, &namespace, &lesson::root().join("samples/minimal.yaml")).await?;
        cluster.healthy(300).await?;
        Mark::quiet(&log, CONTROLLER_USER, |of| of == namespace, QUIET, within(180)).await?;
        let before = lives(operator, &cluster).await?;
        ensure!(before.starts.len() > 5 && before.definitions.len() > 5, "too little to look at: {before:?}");
        Ok(Self { operator, cluster, log, before })
    }

    /// From where the release is to other values, and back.
    pub async fn there_and_back(&self, values: &Path) -> Result<()> {
        let revision = self.operator.tools.revision().await?;
        let title = format!("upgrade to {}", released::title(values));
        self.step(&title, self.deploy(Apply::Server, values)).await?;
        self.step("rollback", self.operator.tools.rollback(revision)).await
    }

    /// Uninstalled, installed with the first values, upgraded over all others, and rolled back to the first.
    pub async fn life(&self, by: Apply, sets: &[PathBuf]) -> Result<()> {
        let (first, others) = sets.split_first().context("values of a released version")?;
        self.alone().await.context("while there is no operator")?;
        self.step(&title(by, "install", first), self.deploy(by, first)).await?;
        let revision = self.operator.tools.revision().await?;
        for set in others {
            self.step(&title(by, "upgrade", set), self.deploy(by, set)).await?;
        }
        self.step(&title(by, "rollback", first), self.operator.tools.rollback(revision)).await
    }

    /// Removes the cluster.
    pub async fn end(self) -> Result<()> {
        self.cluster.delete(240).await?;
        self.operator.bed.remove_namespace(&self.cluster.namespace).await
    }

    /// The values of a file, and those of the bed, which name its images.
    async fn deploy(&self, by: Apply, values: &Path) -> Result<()> {
        self.operator.tools.deploy(by, &[values, self.operator.own.path()]).await
    }

    /// Without an operator the cluster serves as it did.
    async fn alone(&self) -> Result<()> {
        self.operator.stays(&self.cluster.namespace).await.context("uninstalling in spite of a cluster")?;
        self.operator.leave().await?;
        tokio::time::sleep(ALONE).await;
        self.is_as_before().await?;
        eprintln!("uninstalled: the cluster is as it was");
        Ok(())
    }

    /// Does something to the release. Afterwards the operator works again, cares for the cluster, and has not written more about it than
    /// a status and what was changed on purpose.
    async fn step<F>(&self, title: &str, change: F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let (mark, begun) = (Mark::now(&self.log)?, Instant::now());
        change.await.with_context(|| title.to_owned())?;
        self.is_cared_for().await.with_context(|| format!("after {title}"))?;
        self.is_as_before().await.with_context(|| format!("after {title}"))?;
        let writes = mark.since(CONTROLLER_USER, |of| of == self.cluster.namespace)?;
        let more = writes.by_resource.keys().any(|(_, of)| !of.ends_with("/status") && of != "services");
        ensure!(!more && writes.created.is_empty(), "after {title}: more than a status was written: {writes:?}");
        eprintln!("{title}: {} s, {} writes", begun.elapsed().as_secs(), writes.total());
        Ok(())
    }

    async fn is_cared_for(&self) -> Result<()> {
        let namespace = self.cluster.namespace.as_str();
        self.operator.works(namespace).await?;
        self.cluster.drift_is_reverted(60).await?;
        self.cluster.healthy(HEALTHY).await?;
        Mark::quiet(&self.log, CONTROLLER_USER, |of| of == namespace, QUIET, within(120)).await
    }

    async fn is_as_before(&self) -> Result<()> {
        let now = lives(self.operator, &self.cluster).await?;
        let mut differences = differences(&self.before.objects, &now.objects);
        differences.extend(self::differences(&self.before.starts, &now.starts));
        differences.extend(self::differences(&self.before.definitions, &now.definitions));
        ensure!(differences.is_empty(), "{}", differences.join("\n"));
        Ok(())
    }
}

fn title(by: Apply, what: &str, values: &Path) -> String {
    format!("{by:?}: {what} with {}", released::title(values))
}

async fn lives(operator: &Operator, cluster: &ClusterUnderTest) -> Result<Lives> {
    Ok(Lives {
        objects: inventory::identities(&operator.tools, &cluster.namespace).await?,
        starts: cluster.starts(&[]).await?,
        definitions: inventory::definitions(&operator.tools).await?,
    })
}

/// What was and is not, what is otherwise, and what is new.
fn differences<T: Debug + PartialEq>(before: &BTreeMap<String, T>, now: &BTreeMap<String, T>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, was) in before {
        match now.get(name) {
            None => found.push(format!("{name} is gone")),
            Some(is) if is != was => found.push(format!("{name} was {was:?} and is {is:?}")),
            Some(_) => {}
        }
    }
    let new = now.keys().filter(|name| !before.contains_key(name.as_str()));
    found.extend(new.map(|name| format!("{name} is new")));
    found
}
