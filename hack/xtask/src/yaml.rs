//! A small YAML writer: sorted keys, one value per line and quoting by need, so that generated files diff well.

use serde_json::Value;

/// Keys that lead their object, in this order; all others follow sorted.
const LEADING: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "name"];

/// The value as one YAML document.
pub fn document(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

/// Writes `value` as a block whose first line is already indented.
fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_by_key(|key| (LEADING.iter().position(|l| l == key).unwrap_or(LEADING.len()), key.as_str()));
            for (position, key) in keys.into_iter().enumerate() {
                if position > 0 {
                    pad(indent, out);
                }
                out.push_str(&scalar(key));
                out.push(':');
                nested(&map[key], indent, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    pad(indent, out);
                }
                out.push_str("- ");
                block(item, indent + 2, out);
            }
        }
        other => {
            out.push_str(&flat(other));
            out.push('\n');
        }
    }
}

/// Writes the value of a key: on the same line when it is flat, else indented below.
fn nested(value: &Value, indent: usize, out: &mut String) {
    let inner = match value {
        Value::Object(map) if !map.is_empty() => indent + 2,
        Value::Array(items) if !items.is_empty() => indent,
        other => {
            out.push(' ');
            out.push_str(&flat(other));
            out.push('\n');
            return;
        }
    };
    out.push('\n');
    pad(inner, out);
    block(value, inner, out);
}

fn flat(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        // Limits are floating-point numbers in the API server's type and whole numbers in ours.
        other => other.to_string().trim_end_matches(".0").to_owned(),
    }
}

/// Plain when no reader can take it for anything but a string, else in JSON's quotes, which YAML shares.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || " ._/-$,;()'`=+*".contains(c))
        && !text.ends_with(' ')
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { Value::from(text).to_string() }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_behind_the_leading_ones() {
        let value = json!({"spec": {"b": [1, {"x": [], "name": "z"}], "a": {}}, "kind": "K", "apiVersion": "v1"});
        let expected = "apiVersion: v1\nkind: K\nspec:\n  a: {}\n  b:\n  - 1\n  - name: z\n    x: []\n";
        assert_eq!(document(&value), expected);
    }

    #[test]
    fn strings_that_look_like_something_else_are_quoted() {
        for text in ["true", "No", "1", "1e3", "", " x", "x ", "a: b", "^x$", "- a", "ä", "a\nb", "null", "~"] {
            let value = json!({"k": text});
            let read: Value = serde_saphyr::from_str(&document(&value)).unwrap();
            assert_eq!(read, value, "{text:?}");
        }
    }

    #[test]
    fn nested_sequences_are_readable() {
        let value = json!([["a", ["b"]], [{"c": [["d"]]}]]);
        let read: Value = serde_saphyr::from_str(&document(&value)).unwrap();
        assert_eq!(read, value);
    }
}
