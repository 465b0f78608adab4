//! Pages of the documentation as a reader sees them: blocks, and the commands in those that are for a shell.
//!
//! Blocks marked `bash` or `sh` hold commands alone. In those marked `console` a command has a prompt, and what has none is output.

#[cfg(test)]
mod check;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vocabulary;

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::lesson;

/// Languages of blocks with commands.
const SHELLS: [&str; 3] = ["bash", "sh", "console"];
/// Words that stand before a command and are none.
const KEYWORDS: [&str; 4] = ["do", "then", "else", "time"];

/// A block of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What it is marked as; empty where nothing is said.
    pub language: String,
    /// Number of its first line, counted from one.
    pub line: usize,
    /// What it holds.
    pub text: String,
}

/// A command line of a page, put together where it goes over several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number, counted from one.
    pub number: usize,
    /// The words, without prompt, comment and what the command reads from the page itself.
    pub text: String,
}

/// The text of a page of the repository.
pub fn read(page: &str) -> Result<String> {
    fs::read_to_string(lesson::root().join(page)).with_context(|| format!("reading {page}"))
}

/// The blocks of a page.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in page.lines().enumerate() {
        if let Some(language) = line.strip_prefix("```") {
            match open.take() {
                Some(block) => found.push(block),
                None => open = Some(Block { language: language.to_owned(), line: index + 2, text: String::new() }),
            }
        } else if let Some(block) = &mut open {
            block.text.push_str(line);
            block.text.push('\n');
        }
    }
    found
}

/// The command lines of a page.
pub fn lines(page: &str) -> Vec<Line> {
    blocks(page).iter().flat_map(Block::lines).collect()
}

impl Block {
    /// Its command lines; none where it is not for a shell.
    pub fn lines(&self) -> Vec<Line> {
        if !SHELLS.contains(&self.language.as_str()) {
            return Vec::new();
        }
        let mut found = Vec::new();
        let mut begun: Option<Line> = None;
        let mut end_of_input: Option<String> = None;
        for (index, line) in self.text.lines().enumerate() {
            if let Some(end) = &end_of_input {
                if line.trim() == end.as_str() {
                    end_of_input = None;
                }
                continue;
            }
            let spoken = match line.strip_prefix("$ ") {
                Some(command) if self.language == "console" => command,
                None if self.language == "console" && begun.is_none() => continue,
                _ => line,
            };
            let spoken = without_comment(spoken).trim();
            if spoken.is_empty() {
                continue;
            }
            let mut whole = match begun.take() {
                Some(before) => Line { number: before.number, text: format!("{} {spoken}", before.text) },
                None => Line { number: self.line + index, text: spoken.to_owned() },
            };
            if let Some(first) = whole.text.strip_suffix('\\') {
                let length = first.trim_end().len();
                whole.text.truncate(length);
                begun = Some(whole);
                continue;
            }
            if let Some((command, end)) = whole.text.split_once("<<") {
                end_of_input = Some(end.trim().to_owned());
                let length = command.trim_end().len();
                whole.text.truncate(length);
            }
            found.push(whole);
        }
        found
    }
}

/// A line up to its comment.
fn without_comment(line: &str) -> &str {
    let mut quote: Option<char> = None;
    let mut before = ' ';
    for (at, character) in line.char_indices() {
        match (quote, character) {
            (None, '#') if before.is_whitespace() => return &line[..at],
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            _ => {}
        }
        before = character;
    }
    line
}

/// The commands of a line, each as its words: those of a pipe one after the other, and those whose output others use.
///
/// Variables, and what other commands print, stay as they are written. Assignments before a command and redirections are left out.
pub fn commands(line: &str) -> Result<Vec<Vec<String>>> {
    let mut reader = Reader { rest: line, ..Reader::default() };
    while let Some(character) = reader.character() {
        reader.take(character).with_context(|| format!("reading the command {line:?}"))?;
    }
    reader.end_command();
    let mut all = reader.commands;
    for inner in reader.inner {
        all.extend(commands(&inner)?);
    }
    Ok(all)
}

/// Reads one line, character by character.
#[derive(Default)]
struct Reader<'a> {
    rest: &'a str,
    word: Option<String>,
    words: Vec<String>,
    commands: Vec<Vec<String>>,
    inner: Vec<String>,
    /// The next word is where output goes.
    redirected: bool,
}

impl Reader<'_> {
    fn character(&mut self) -> Option<char> {
        let character = self.rest.chars().next()?;
        self.rest = &self.rest[character.len_utf8()..];
        Some(character)
    }

    fn take(&mut self, character: char) -> Result<()> {
        match character {
            '\'' | '"' => self.quoted(character)?,
            '\\' => {
                let escaped = self.character();
                self.word.get_or_insert_default().extend(escaped);
            }
            '$' if self.rest.starts_with('(') => self.substituted()?,
            '|' | ';' | '&' => self.end_command(),
            '<' | '>' => {
                // The number of what is redirected is no word.
                if self.word.as_deref().is_some_and(|word| word.chars().all(|c| c.is_ascii_digit())) {
                    self.word = None;
                }
                self.end_word();
                self.rest = self.rest.trim_start_matches(['>', '&', ' ']);
                self.redirected = true;
            }
            blank if blank.is_whitespace() => self.end_word(),
            other => self.word.get_or_insert_default().push(other),
        }
        Ok(())
    }

    fn quoted(&mut self, quote: char) -> Result<()> {
        // What is quoted is a word, even if there is nothing in it.
        if self.word.is_none() {
            self.word = Some(String::new());
        }
        loop {
            let next = match self.character() {
                None => bail!("a quote has no end"),
                Some(end) if end == quote => return Ok(()),
                Some('\\') if quote == '"' => self.character(),
                Some('$') if quote == '"' && self.rest.starts_with('(') => {
                    self.substituted()?;
                    None
                }
                other => other,
            };
            self.word.get_or_insert_default().extend(next);
        }
    }

    /// What stands in `$(…)`: a command of its own, and a part of this word that nobody knows.
    fn substituted(&mut self) -> Result<()> {
        let mut depth = 0_usize;
        let mut inner = String::new();
        loop {
            let Some(character) = self.character() else { bail!("a parenthesis has no end") };
            match character {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            inner.push(character);
        }
        self.word.get_or_insert_default().push_str("$(…)");
        self.inner.push(inner.trim_start_matches('(').to_owned());
        Ok(())
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        if std::mem::take(&mut self.redirected) {
            return;
        }
        let before_command = self.words.is_empty() && (KEYWORDS.contains(&word.as_str()) || is_assignment(&word));
        if !before_command {
            self.words.push(word);
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        self.redirected = false;
        if !self.words.is_empty() {
            self.commands.push(std::mem::take(&mut self.words));
        }
    }
}

/// Whether a word sets a variable.
fn is_assignment(word: &str) -> bool {
    let name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    word.split_once('=').is_some_and(|(variable, _)| name(variable))
}
