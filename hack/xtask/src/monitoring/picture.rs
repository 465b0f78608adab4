//! Pictures of dashboards: what is where, without any data.

use std::fmt::Write as _;

use serde_json::Value;

/// Width of one of the 24 columns, in pixels.
const COLUMN: u64 = 40;
/// Height of one line of the grid.
const LINE: u64 = 13;
/// Space between panels.
const GAP: u64 = 4;
/// Height of the heading.
const HEADING: u64 = 44;

/// Draws a dashboard.
pub fn draw(dashboard: &Value) -> String {
    let panels = dashboard["panels"].as_array().map(Vec::as_slice).unwrap_or_default();
    let at = |panel: &Value, side: &str| panel["gridPos"][side].as_u64().unwrap_or_default();
    let lines = panels.iter().map(|panel| at(panel, "y") + at(panel, "h")).max().unwrap_or_default();
    let (width, height) = (24 * COLUMN + 2 * GAP, HEADING + lines * LINE + 2 * GAP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#f4f5f5\"/>\n"
    );
    let variables = dashboard["templating"]["list"].as_array().map(Vec::as_slice).unwrap_or_default();
    let variables: Vec<&str> = variables.iter().filter_map(|variable| variable["label"].as_str()).collect();
    let title = escaped(dashboard["title"].as_str().unwrap_or_default());
    let _ = writeln!(out, "<text x=\"{}\" y=\"18\" font-size=\"15\" font-weight=\"bold\">{title}</text>", 2 * GAP);
    let _ = writeln!(out, "<text x=\"{}\" y=\"35\" fill=\"#555\">{}</text>", 2 * GAP, escaped(&variables.join(" · ")));
    for panel in panels {
        let (x, y) = (GAP + at(panel, "x") * COLUMN, HEADING + GAP + at(panel, "y") * LINE);
        let (w, h) = (at(panel, "w") * COLUMN - GAP, at(panel, "h") * LINE - GAP);
        let name = panel["title"].as_str().unwrap_or_default();
        if panel["type"] == "row" {
            let _ = writeln!(out, "<text x=\"{x}\" y=\"{}\" font-weight=\"bold\">{}</text>", y + 9, escaped(name));
            continue;
        }
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"2\" fill=\"#fff\" stroke=\"#ccc\"/>"
        );
        let _ = writeln!(out, "<text x=\"{}\" y=\"{}\">{}</text>", x + 6, y + 14, escaped(&short(name, w)));
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default();
        match panel["type"].as_str() {
            Some("stat") => {
                let _ = writeln!(
                    out,
                    "<text x=\"{}\" y=\"{}\" font-size=\"16\" text-anchor=\"middle\" fill=\"#37872d\">{}</text>",
                    x + w / 2,
                    y + h - 10,
                    escaped(unit)
                );
            }
            Some("table") => {
                for line in 1..5 {
                    let at = y + 16 + line * (h - 20) / 5;
                    let _ = writeln!(out, "<path d=\"M{} {at}h{}\" stroke=\"#ddd\"/>", x + 6, w - 12);
                }
            }
            _ => curve(&mut out, x + 6, y + 20, w - 12, h - 30, unit),
        }
    }
    out.push_str("</svg>\n");
    out
}

/// A curve that stands for any, on its axis.
fn curve(out: &mut String, x: u64, y: u64, w: u64, h: u64, unit: &str) {
    const SHAPE: [u64; 9] = [70, 60, 65, 40, 45, 25, 50, 55, 35];
    let mut path = String::new();
    for (position, percent) in (0..).zip(SHAPE) {
        let (px, py) = (x + position * w / 8, y + percent * h / 100);
        let _ = write!(path, "{}{px} {py}", if position == 0 { "M" } else { "L" });
    }
    let _ = writeln!(out, "<path d=\"M{x} {}h{w}\" stroke=\"#ddd\"/>", y + h);
    let _ = writeln!(out, "<path d=\"{path}\" fill=\"none\" stroke=\"#5794f2\"/>");
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" font-size=\"9\" text-anchor=\"end\" fill=\"#888\">{}</text>",
        x + w,
        y + h - 3,
        escaped(unit)
    );
}

/// As much of a title as fits.
fn short(title: &str, width: u64) -> String {
    let fits = usize::try_from(width / 6).unwrap_or(usize::MAX);
    if title.chars().count() <= fits {
        return title.to_owned();
    }
    title.chars().take(fits.saturating_sub(1)).chain(['…']).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_panel_is_drawn_where_it_is() {
        let svg = draw(&json!({
            "title": "A & B",
            "templating": { "list": [{ "label": "Cluster" }] },
            "panels": [
                { "type": "row", "title": "Row", "gridPos": { "x": 0, "y": 0, "w": 24, "h": 1 } },
                { "type": "timeseries", "title": "A very long title that does not fit", "gridPos": { "x": 12, "y": 1, "w": 4, "h": 8 } },
            ],
        }));
        assert!(svg.contains("A &amp; B") && svg.contains("Cluster") && svg.contains(">Row<"), "{svg}");
        assert!(
            svg.contains("<rect x=\"484\" y=\"61\" width=\"156\" height=\"100\"") && svg.contains("…</text>"),
            "{svg}"
        );
    }
}
