//! The page for newcomers, carried out: its own commands install the operator, make a cluster over three zones, change it, upgrade the
//! operator, and take everything away.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use stories::{
    ClusterUnderTest,
    lesson::root,
    page::{self, Block, Line},
    secret::stay_hidden,
};

use super::operator::Operator;

/// The page.
const PAGE: &str = "docs/first-cluster.md";
/// Where it puts its manifest.
const MANIFEST: &str = "three-cells.yaml";
/// The namespace and the cluster that it makes.
const NAME: &str = "shop";

/// Carries out the page, from the first command to the last. At the end there is no operator.
pub async fn walk(operator: &Operator) -> Result<()> {
    let text = page::read(PAGE)?;
    let folder = tempfile::tempdir().context("making a folder for the manifest")?;
    let manifest = folder.path().join(MANIFEST);
    let blocks = page::blocks(&text);
    let yaml = blocks.iter().find(|block| block.language == "yaml").context("the page has no manifest")?;
    fs::write(&manifest, &yaml.text).context("writing the manifest")?;
    let lines: Vec<Line> = blocks.iter().filter(|block| block.language == "bash").flat_map(Block::lines).collect();
    ensure!(lines.len() > 10, "{PAGE} has only {} commands", lines.len());

    // While somebody is there who cleans up after its cluster.
    let gone = ["delete", "namespace", NAME, "--ignore-not-found", "--timeout=180s"];
    operator.tools.succeed("kubectl", &gone).await.context("removing what an earlier try left")?;
    operator.leave().await?;
    let outcome = carry_out_all(operator, &lines, &manifest).await;
    if outcome.is_err() {
        // The controller has to be there to clean up; whoever brings it back waits for nobody.
        let args = ["delete", "namespace", NAME, "--ignore-not-found", "--wait=false"];
        let _removed = operator.tools.run("kubectl", &args).await;
    }
    outcome
}

async fn carry_out_all(operator: &Operator, lines: &[Line], manifest: &Path) -> Result<()> {
    let cluster = ClusterUnderTest::existing(&operator.bed, NAME, NAME);
    let mut before_upgrade: Option<BTreeMap<String, (String, i32)>> = None;
    for line in lines {
        let upgrades = line.text.starts_with("helm upgrade");
        if upgrades {
            cluster.healthy(300).await?;
            before_upgrade = Some(cluster.starts(&[]).await?);
        }
        carry_out(operator, &line.text, manifest).await.with_context(|| format!("{PAGE}: {}", line.text))?;
        eprintln!("{}", line.text);
        if upgrades {
            operator.works(NAME).await?;
            stay_hidden(&operator.bed.client, NAME).await?;
            let now = cluster.starts(&[]).await?;
            ensure!(
                before_upgrade.as_ref() == Some(&now),
                "the upgrade restarted pods: {before_upgrade:?}, then {now:?}"
            );
        }
    }
    ensure!(
        before_upgrade.is_some_and(|pods| pods.len() > 10),
        "{PAGE} upgrades nothing beside a cluster of three zones"
    );
    Ok(())
}

/// Carries out one command, with files where they are, and with the images of the bed.
async fn carry_out(operator: &Operator, line: &str, manifest: &Path) -> Result<()> {
    let commands = page::commands(line)?;
    let [command] = commands.as_slice() else { bail!("not one command but {}", commands.len()) };
    let (program, args) = command.split_first().context("a program")?;
    let placed = |word: &String| match word.as_str() {
        MANIFEST => manifest.display().to_string(),
        word if word.starts_with("charts/") => root().join(word).display().to_string(),
        word => word.to_owned(),
    };
    let mut args: Vec<String> = args.iter().map(placed).collect();
    let takes_values = args.first().is_some_and(|verb| ["install", "upgrade"].contains(&verb.as_str()));
    if program == "helm" && takes_values {
        args.extend(["--values".to_owned(), operator.own.path().display().to_string()]);
    }
    // The chart refuses to go while there are clusters, and a story that failed may have left one.
    if program == "helm" && args.first().is_some_and(|verb| verb == "uninstall") && operator.has_clusters().await? {
        args.push("--no-hooks".to_owned());
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    operator.tools.succeed(program, &args).await.map(drop)
}
