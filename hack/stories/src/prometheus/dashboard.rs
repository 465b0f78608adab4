//! The dashboards as Grafana reads them: their variables and the queries of their panels.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Server;
use crate::lesson;

/// What the step of a query becomes: long enough for what a story did a while ago.
const RATE_INTERVAL: (&str, &str) = ("__rate_interval", "10m");
/// Names of the dashboards.
const ALL: [&str; 3] = ["operator", "cluster", "data-plane"];

/// One dashboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dashboard {
    /// Name of its file.
    pub name: String,
    /// What its queries are about, in the order of their dependence.
    pub variables: Vec<Variable>,
    /// What its panels show.
    pub queries: Vec<Query>,
}

/// A variable whose values are those of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Name.
    pub name: String,
    /// Which series it looks at; may name variables before it.
    pub selector: String,
    /// Which label.
    pub label: String,
}

/// One query of a panel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The row that the panel is in.
    pub row: String,
    /// Title of the panel.
    pub panel: String,
    /// Letter of the query within the panel.
    pub letter: String,
    /// The expression; names variables.
    pub expression: String,
}

/// All dashboards.
pub fn all() -> Result<Vec<Dashboard>> {
    ALL.iter()
        .map(|name| {
            let path = lesson::root().join(format!("monitoring/dashboards/{name}.json"));
            let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let value = serde_json::from_str(&text).with_context(|| format!("parsing {}", path.display()))?;
            Dashboard::parse(name, &value).with_context(|| format!("in {}", path.display()))
        })
        .collect()
}

impl Dashboard {
    fn parse(name: &str, value: &Value) -> Result<Self> {
        let mut variables = Vec::new();
        for variable in value["templating"]["list"].as_array().into_iter().flatten() {
            if variable["type"] == "query" {
                variables.push(Variable::parse(variable).with_context(|| format!("variable {}", variable["name"]))?);
            }
        }
        let mut queries = Vec::new();
        let mut row = String::new();
        for panel in value["panels"].as_array().into_iter().flatten() {
            if panel["type"] == "row" {
                row = title(panel);
            }
            // The panels of a row that is folded lie inside of it.
            for panel in std::iter::once(panel).chain(panel["panels"].as_array().into_iter().flatten()) {
                for target in panel["targets"].as_array().into_iter().flatten() {
                    let text = |key: &str| target[key].as_str().map(str::to_owned);
                    queries.push(Query {
                        row: row.clone(),
                        panel: title(panel),
                        letter: text("refId").unwrap_or_default(),
                        expression: text("expr").with_context(|| format!("panel {:?} asks nothing", title(panel)))?,
                    });
                }
            }
        }
        ensure!(!queries.is_empty(), "no panel asks anything");
        Ok(Self { name: name.to_owned(), variables, queries })
    }

    /// The values that its variables have now, as Grafana puts them into a query when all values are chosen; those of `fixed` have the
    /// value that is given there, if there is one of that name among the real ones.
    pub async fn values(&self, prometheus: &Server, fixed: &[(&str, &str)]) -> Result<Vec<(String, String)>> {
        let mut known: Vec<(String, String)> = vec![(RATE_INTERVAL.0.to_owned(), RATE_INTERVAL.1.to_owned())];
        for variable in &self.variables {
            let selector = filled(&variable.selector, &known)?;
            let found = prometheus.label_values(&selector, &variable.label).await?;
            ensure!(!found.is_empty(), "variable {} of {} has no values", variable.name, self.name);
            let chosen = match fixed.iter().find(|(name, _)| *name == variable.name) {
                Some((_, value)) => {
                    ensure!(found.iter().any(|found| found == value), "{} is none of {found:?}", variable.name);
                    (*value).to_owned()
                }
                None => format!("({})", found.join("|")),
            };
            known.push((variable.name.clone(), chosen));
        }
        Ok(known)
    }
}

impl Variable {
    fn parse(variable: &Value) -> Result<Self> {
        let query = variable["query"].as_str().or_else(|| variable["query"]["query"].as_str()).context("no query")?;
        let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (selector, label) = inside.and_then(|inside| inside.rsplit_once(',')).context("no label_values")?;
        let name = variable["name"].as_str().context("no name")?;
        Ok(Self { name: name.to_owned(), selector: selector.trim().to_owned(), label: label.trim().to_owned() })
    }
}

impl Query {
    /// The expression with the values of its variables.
    pub fn filled(&self, values: &[(String, String)]) -> Result<String> {
        filled(&self.expression, values)
    }
}

fn title(panel: &Value) -> String {
    panel["title"].as_str().unwrap_or_default().to_owned()
}

/// The text with `$name` and `${name}` replaced; what is left would be sent as it is, so nothing may be left.
fn filled(text: &str, values: &[(String, String)]) -> Result<String> {
    let (mut whole, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        whole.push_str(before);
        let (braced, after) = after.strip_prefix('{').map_or((false, after), |after| (true, after));
        let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
        let (name, behind) = after.split_at(end);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            // The end of a regular expression, or a group of one.
            whole.push('$');
            whole.push_str(if braced { "{" } else { "" });
            rest = after;
            continue;
        }
        let value = values.iter().find(|(known, _)| known == name);
        whole.push_str(&value.with_context(|| format!("{text:?} names the unknown variable {name:?}"))?.1);
        rest = if braced { behind.strip_prefix('}').context("a variable without its end")? } else { behind };
    }
    Ok(whole + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Vec<(String, String)> {
        [("cluster", "minimal"), ("cluster_name", "other"), ("__rate_interval", "5m")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn variables_are_replaced_by_their_whole_name() {
        let text = r#"rate(a{b=~"$cluster", c="${cluster_name}"}[$__rate_interval])"#;
        assert_eq!(filled(text, &values()).unwrap(), r#"rate(a{b=~"minimal", c="other"}[5m])"#);
        assert_eq!(
            filled(r#"label_replace(a, "b", "$1", "c", "(.*)$")"#, &values()).unwrap(),
            r#"label_replace(a, "b", "$1", "c", "(.*)$")"#
        );
        assert!(filled("a{b=\"$nobody\"}", &values()).unwrap_err().to_string().contains("nobody"));
    }

    #[test]
    fn every_dashboard_asks_and_knows_its_variables() {
        for dashboard in all().unwrap() {
            let mut known = vec![(RATE_INTERVAL.0.to_owned(), RATE_INTERVAL.1.to_owned())];
            for variable in &dashboard.variables {
                filled(&variable.selector, &known).unwrap();
                known.push((variable.name.clone(), "x".to_owned()));
            }
            assert!(dashboard.queries.len() > 10, "{} has {} queries", dashboard.name, dashboard.queries.len());
            for query in &dashboard.queries {
                assert!(!query.row.is_empty() && !query.panel.is_empty() && !query.letter.is_empty(), "{query:?}");
                query.filled(&known).unwrap();
            }
        }
    }
}
