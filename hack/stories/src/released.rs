//! Values that users of released versions give the chart: the files below `values/`, a folder for each version.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

/// What a version is ordered by: its three numbers, and then what was published ahead of it before itself.
type Order = (u64, u64, u64, bool, String);

/// All files, in the order in which users come to them: by version, then by name.
pub fn all() -> Result<Vec<PathBuf>> {
    let mut versions = Vec::new();
    for path in entries(&folder())?.into_iter().filter(|path| path.is_dir()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let order = order(&name).with_context(|| format!("{} is not named after a version", path.display()))?;
        versions.push((order, path));
    }
    versions.sort();
    let mut files = Vec::new();
    for (_, version) in versions {
        let mut sets = entries(&version)?;
        sets.retain(|path| path.extension().is_some_and(|kind| kind == "yaml"));
        ensure!(!sets.is_empty(), "{} holds no values", version.display());
        sets.sort();
        files.extend(sets);
    }
    Ok(files)
}

/// A file as reports name it: its version and its name.
pub fn title(file: &Path) -> String {
    file.strip_prefix(folder()).unwrap_or(file).with_extension("").display().to_string()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("values")
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let all = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    all.map(|entry| Ok(entry.context("listing values")?.path())).collect()
}

fn order(version: &str) -> Option<Order> {
    let (numbers, ahead) = version.split_once('-').unwrap_or((version, ""));
    let mut numbers = numbers.split('.').map(|number| number.parse::<u64>().ok());
    let order = (numbers.next()??, numbers.next()??, numbers.next()??, ahead.is_empty(), ahead.to_owned());
    numbers.next().is_none().then_some(order)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::lesson;

    #[test]
    fn the_version_of_the_chart_has_values_of_its_own() {
        let text = fs::read_to_string(lesson::root().join("charts/multigres-operator/Chart.yaml")).unwrap();
        let chart: Value = serde_saphyr::from_str(&text).unwrap();
        let own = folder().join(chart["version"].as_str().unwrap());
        let has = all().unwrap().iter().any(|file| file.starts_with(&own));
        assert!(has, "{} is not there: hack/stories/values/README.md says what belongs into it", own.display());
    }

    #[test]
    fn values_say_nothing_of_images() {
        for file in all().unwrap() {
            let values: Value = serde_saphyr::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
            for program in ["controller", "admission"] {
                assert_eq!(values[program]["image"], Value::Null, "{}", title(&file));
            }
        }
    }

    #[test]
    fn versions_come_in_the_order_of_their_numbers() {
        let mut versions = ["0.10.0", "0.2.0", "0.2.0-rc.1", "1.0.0", "0.2.1"];
        versions.sort_by_key(|version| order(version).unwrap());
        assert_eq!(versions, ["0.2.0-rc.1", "0.2.0", "0.2.1", "0.10.0", "1.0.0"]);
        for name in ["next", "1.0", "1.0.0.0", "v1.0.0"] {
            assert_eq!(order(name), None, "{name}");
        }
    }

    #[test]
    fn a_file_is_called_by_its_version_and_name() {
        assert_eq!(title(&folder().join("0.1.0/1-defaults.yaml")), "0.1.0/1-defaults");
    }
}
