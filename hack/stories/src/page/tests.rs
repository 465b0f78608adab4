//! How pages are read, and that what they say could be done.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;

use super::*;
use crate::page::check::Known;

/// Folders whose pages are looked at, and single pages.
const FOLDERS: [&str; 2] = ["docs", "monitoring/runbooks"];
const PAGES: [&str; 4] =
    ["README.md", "samples/README.md", "monitoring/overlay/README.md", "hack/stories/values/README.md"];

/// All pages by their path.
fn pages() -> BTreeMap<String, String> {
    let of_folder = |folder: &str| {
        let entries = fs::read_dir(lesson::root().join(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        let pages = names.filter(|name| Path::new(name).extension().is_some_and(|kind| kind == "md"));
        pages.map(|name| format!("{folder}/{name}")).collect::<Vec<_>>()
    };
    let all = FOLDERS.into_iter().flat_map(of_folder).chain(PAGES.map(str::to_owned));
    all.map(|page| (page.clone(), read(&page).unwrap())).collect()
}

fn words(line: &str) -> Vec<Vec<String>> {
    commands(line).unwrap()
}

#[test]
fn commands_are_told_from_comments_prompts_output_and_input() {
    let page = "text\n```bash\nkubectl get pods   # all of them\n\nhelm upgrade a b \\\n  --set 'c=#d'\n```\n\
        ```console\n$ kubectl create -f - <<EOF\nkind: A\nEOF\n$ kubectl get a\nNAME\n```\n```yaml\nkubectl: no\n```\n";
    let found: Vec<(usize, String)> = lines(page).into_iter().map(|line| (line.number, line.text)).collect();
    let expected = [
        (3, "kubectl get pods"),
        (5, "helm upgrade a b --set 'c=#d'"),
        (9, "kubectl create -f -"),
        (12, "kubectl get a"),
    ];
    assert_eq!(found, expected.map(|(number, text)| (number, text.to_owned())));
}

#[test]
fn a_line_is_the_commands_in_it() {
    assert_eq!(words("NS=a kubectl -n \"$NS\" get 'b c' 2> /dev/null | grep -c d").concat().len(), 8);
    assert_eq!(words("a 2>&1 && b > c; d &"), [["a"], ["b"], ["d"]]);
    let found = words("X=$(kubectl get a -o \"b\") && do echo \"$(date +%s)\" ''");
    assert_eq!(found, [vec!["echo", "$(…)", ""], vec!["kubectl", "get", "a", "-o", "b"], vec!["date", "+%s"]]);
    assert!(commands("kubectl get 'a").is_err() && commands("echo $(a").is_err());
}

#[test]
fn what_could_not_work_is_found() {
    let known = Known::read();
    let problem = |line: &str| known.problem(&words(line)[0]).unwrap_or_default();
    for line in [
        "kubectl -n demo get multigrescluster demo -o jsonpath='{.status.phase}'",
        "kubectl get shards -o jsonpath='{.status.conditions[?(@.type==\"BackupHealthy\")].reason}'",
        "kubectl patch mgc demo --type=merge -p '{\"spec\":{\"cells\":[{\"name\":\"a\"}]}}'",
        "kubectl patch mgc demo --type=json -p '[{\"op\":\"remove\",\"path\":\"/spec/cells/0/overrides\"}]'",
        "kubectl wait mgb/a --for=condition=Complete --timeout=1m",
        "kubectl apply -f samples/minimal.yaml -f mine.yaml --dry-run=server",
        "kubectl exec a -c postgres -- psql --anything",
        "helm -n a upgrade b charts/multigres-operator --set 'watch.namespaces={a,b},metrics.readers[0].name=c' --wait",
        "kubectl get \"$KIND\" a",
        "make demo",
    ] {
        assert_eq!(problem(line), "", "{line}");
    }
    for (line, expected) in [
        ("kubectl get multigrescluster -o jsonpath='{.status.fase}'", "no field .status.fase"),
        ("kubectl get shard -o jsonpath='{.status.conditions[?(@.type==\"Wel\")]}'", "no condition Wel"),
        ("kubectl get mgc --all", "--all is no known flag"),
        ("kubectl get clusters", "\"clusters\" is no known kind"),
        ("kubectl get", "names no kind"),
        ("kubectl obtain pods", "\"obtain\" is no known verb"),
        ("kubectl get pods -n", "-n has no value"),
        ("kubectl patch mgc a --type=merge -p '{\"spec\":{\"cels\":[]}}'", "no field .spec.cels"),
        ("kubectl patch mgc a --type=merge -p {spec:{}}", "no JSON"),
        ("kubectl patch mgc a --type=json -p '[{\"op\":\"add\",\"path\":\"/spec/cels/0\"}]'", "changes nothing"),
        ("kubectl apply -f samples/none.yaml", "there is no samples/none.yaml"),
        ("helm install a charts/multigres-operator --set admission.enable=false", "no value admission.enable"),
        ("helm rollback a 1 --server-sided", "--server-sided is no known flag"),
    ] {
        assert!(problem(line).contains(expected), "{line}: {:?}", problem(line));
    }
}

#[test]
fn every_command_of_the_pages_could_work() {
    let known = Known::read();
    let mut wrong = Vec::new();
    let mut tried = 0;
    for (page, text) in pages() {
        for line in lines(&text) {
            for command in commands(&line.text).unwrap() {
                tried += 1;
                let problem = known.problem(&command);
                wrong.extend(problem.map(|problem| format!("{page}:{}: {problem}: {}", line.number, line.text)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 200, "only {tried} commands were found");
}

#[test]
fn every_manifest_of_the_pages_has_only_fields_that_there_are() {
    let known = Known::read();
    let mut wrong = Vec::new();
    let mut tried = 0;
    for (page, text) in pages() {
        for block in blocks(&text).into_iter().filter(|block| block.language == "yaml") {
            let documents: Result<Vec<Value>, _> = serde_saphyr::from_multiple(&block.text);
            for document in documents.unwrap_or_else(|error| panic!("{page}:{}: no YAML: {error}", block.line)) {
                tried += 1;
                let problem = known.problem_of_manifest(&document);
                wrong.extend(problem.map(|problem| format!("{page}:{}: {problem}", block.line)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 5, "only {tried} manifests were found");
}

/// What a heading is called in a link.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[test]
fn every_link_of_the_pages_leads_somewhere() {
    let pages = pages();
    let mut wrong = Vec::new();
    for (page, text) in &pages {
        let folder = Path::new(page).parent().unwrap_or(Path::new(""));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.contains(char::is_whitespace) {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { lesson::root().join(page) } else { lesson::root().join(folder).join(file) };
            if !target.exists() {
                wrong.push(format!("{page}: {link} leads nowhere"));
            } else if !heading.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let headings: BTreeSet<String> = text
                    .lines()
                    .filter(|line| line.starts_with('#'))
                    .map(|line| anchor(line.trim_start_matches('#')))
                    .collect();
                if !headings.contains(heading) {
                    wrong.push(format!("{page}: {link}: there is no such heading"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_index_leads_to_every_page() {
    let index = read("docs/README.md").unwrap();
    for page in pages().keys().filter_map(|page| page.strip_prefix("docs/")).filter(|page| *page != "README.md") {
        assert!(index.contains(&format!("]({page})")), "docs/README.md does not name {page}");
    }
}
