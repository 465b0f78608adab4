//! The commands of the page about installing are understood: those of Helm by Helm and the chart, those of kubectl by the API server. Nothing of
//! it is done: what would change something is a dry run.

use anyhow::{Context as _, Result, ensure};
use stories::{Bed, Tools, lesson::root, page};

/// The page.
const PAGE: &str = "docs/install.md";

/// The arguments of a command as a dry run; none where that is impossible, because it needs files that are rendered first or has no dry run.
fn dry(command: &[String]) -> Option<Vec<String>> {
    let (program, args) = command.split_first()?;
    if args.iter().any(|word| word.starts_with("dist/")) {
        return None;
    }
    let says = |verbs: &[&str]| args.iter().any(|word| verbs.contains(&word.as_str()));
    let more = match program.as_str() {
        // Some of them belong to other releases than the one that is there, which a dry run by the server would mind.
        "helm" if says(&["install", "upgrade"]) => Some("--dry-run=client"),
        "helm" if says(&["uninstall"]) => Some("--dry-run"),
        "kubectl" if says(&["apply", "create", "delete", "patch"]) => Some("--dry-run=server"),
        "kubectl" if says(&["get", "rollout"]) => None,
        _ => return None,
    };
    let placed = |word: &String| match word.as_str() {
        word if word.starts_with("charts/") => root().join(word).display().to_string(),
        word => word.to_owned(),
    };
    Some(args.iter().map(placed).chain(more.map(str::to_owned)).collect())
}

#[tokio::test]
async fn the_commands_of_the_install_page_are_understood() -> Result<()> {
    let Some(_bed) = Bed::connect().await? else { return Ok(()) };
    let tools = Tools::from_env()?;
    let mut tried = 0;
    for line in page::lines(&page::read(PAGE)?) {
        for command in page::commands(&line.text)? {
            let Some(args) = dry(&command) else { continue };
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            tools.succeed(&command[0], &args).await.with_context(|| format!("{PAGE}:{}", line.number))?;
            tried += 1;
        }
    }
    ensure!(tried >= 6, "only {tried} commands of {PAGE} could be tried");
    Ok(())
}
