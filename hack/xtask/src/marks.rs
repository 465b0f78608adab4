//! Generated parts of documents that people write: what is between `<!-- name -->` and `<!-- end of name -->`.

use anyhow::Context;

/// The text with this content between the marks of this name.
pub fn fill(text: &str, name: &str, content: &str) -> anyhow::Result<String> {
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
    let (before, rest) = text.split_once(&start).with_context(|| format!("no {start:?}"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("no {end:?}"))?;
    Ok(format!("{before}{start}\n{content}\n{end}{after}"))
}
