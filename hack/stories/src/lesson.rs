//! What the page of the samples tells a user to do, read from the page itself, so that a story carries out the same commands.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::helm::Tools;

/// The namespace that the page speaks of.
const NAMESPACE: &str = "-n demo";

/// One section of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lesson {
    /// Its heading.
    pub title: String,
    /// Makes the cluster.
    pub apply: Vec<String>,
    /// The one change to try.
    pub change: String,
    /// Removes the cluster.
    pub remove: Vec<String>,
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The lessons of `samples/README.md`, in its order.
pub fn all() -> Result<Vec<Lesson>> {
    let page = root().join("samples/README.md");
    let text = std::fs::read_to_string(&page).with_context(|| format!("reading {}", page.display()))?;
    parse(&text)
}

fn parse(page: &str) -> Result<Vec<Lesson>> {
    let sections = page.split("\n## ").skip(1);
    sections
        .map(|section| {
            let (title, text) = section.split_once('\n').unwrap_or((section, ""));
            let blocks = commands(text)?;
            let [apply, change, remove] = blocks.as_slice() else {
                bail!("section {title:?} has {} blocks of commands, not apply, change and remove", blocks.len());
            };
            let [change] = change.as_slice() else {
                bail!("section {title:?} names {} changes, not one", change.len())
            };
            Ok(Lesson {
                title: title.trim().to_owned(),
                apply: apply.clone(),
                change: change.clone(),
                remove: remove.clone(),
            })
        })
        .collect()
}

/// The lines of each block that is marked `bash`.
fn commands(text: &str) -> Result<Vec<Vec<String>>> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("```bash\n") {
        let (block, after) = after.split_once("\n```").context("a block of commands has no end")?;
        blocks.push(block.lines().map(str::to_owned).collect());
        rest = after;
    }
    Ok(blocks)
}

impl Lesson {
    /// The lesson with this heading.
    pub fn titled(title: &str) -> Result<Self> {
        all()?.into_iter().find(|lesson| lesson.title == title).with_context(|| format!("no section {title:?}"))
    }

    /// Carries out commands of the page in another namespace than it speaks of, one after the other.
    pub async fn carry_out(tools: &Tools, commands: &[String], namespace: &str) -> Result<()> {
        for command in commands {
            let words = shell_words(command)?;
            let [program, args @ ..] = words.as_slice() else { bail!("an empty command") };
            ensure!(program == "kubectl", "{command:?} is not a command of kubectl");
            let args: Vec<String> = place(args, namespace);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            tools.succeed(program, &args).await?;
        }
        Ok(())
    }
}

/// The same arguments for another namespace, and with samples found from wherever the story runs.
fn place(args: &[String], namespace: &str) -> Vec<String> {
    let root = root();
    let placed = args
        .iter()
        .map(|word| if word.starts_with("samples/") { root.join(word).display().to_string() } else { word.clone() });
    let mut placed: Vec<String> = placed.collect();
    let (flag, demo) = NAMESPACE.split_once(' ').unwrap_or_default();
    if let Some(at) = placed.windows(2).position(|pair| pair[0] == flag && pair[1] == demo) {
        namespace.clone_into(&mut placed[at + 1]);
    }
    placed
}

/// Words of a command, where single quotes keep a word together.
fn shell_words(command: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut open) = (String::new(), false, false);
    for c in command.chars() {
        match c {
            '\'' => (quoted, open) = (!quoted, true),
            ' ' if !quoted => {
                if open || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
            }
            '"' | '\\' | '$' | '|' | ';' | '&' | '<' | '>' if !quoted => bail!("{command:?} needs a shell for {c:?}"),
            c => word.push(c),
        }
    }
    ensure!(!quoted, "{command:?} has a quote without an end");
    if open || !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_of_the_page_makes_changes_and_removes() {
        let lessons = all().unwrap();
        assert!(lessons.len() >= 8, "{} sections", lessons.len());
        for lesson in lessons {
            for command in lesson.apply.iter().chain([&lesson.change]).chain(&lesson.remove) {
                let words = shell_words(command).unwrap();
                assert_eq!(words[0], "kubectl", "{command}");
            }
            assert!(lesson.apply.iter().any(|command| command.contains(" apply -f ")), "{lesson:?}");
            assert!(lesson.remove.iter().all(|command| command.contains(" delete ")), "{lesson:?}");
        }
    }

    #[test]
    fn commands_go_to_the_storys_namespace_and_files() {
        let words = shell_words("kubectl -n demo patch mgc x -p '{\"a\": \"b c\"}' -f samples/x.yaml").unwrap();
        assert_eq!(words[7], "{\"a\": \"b c\"}");
        let placed = place(&words[1..], "story-1");
        assert_eq!(placed[..2], ["-n", "story-1"]);
        assert!(placed.last().unwrap().ends_with("../../samples/x.yaml"), "{placed:?}");
        assert!(shell_words("kubectl get pods | wc").is_err());
    }

    #[test]
    fn a_section_without_its_three_blocks_is_refused() {
        let page = "# Page\n\n## one\n\n```bash\nkubectl apply -f samples/minimal.yaml\n```\n";
        assert!(parse(page).unwrap_err().to_string().contains("\"one\" has 1 blocks"));
    }
}
