//! On what is measured: the rows of a manifest, or a folder of pictures with prompts, cut into two halves that share no
//! reference, and each row with as many seeds as are needed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use diorama_core::id::{Seed, Sha256Hex};
use diorama_core::settings::Settings;
use diorama_core::task::{Reference, Task};
use diorama_manifest::{Manifest, References, Rules};
use diorama_runtime::config::Config;
use serde_json::{Map, Value, json};

use crate::cli::Calibrate;
use crate::commands::run;
use crate::exit::Failure;
use crate::issues;

/// The most seeds that a row is tried with.
pub(super) const MOST_SEEDS: usize = 8;
/// Of a manifest with more rows, the first so many are taken.
const MOST_ROWS: usize = 1000;
/// What a file's name ends with that is taken for a picture.
const PICTURES: [&str; 8] = ["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff"];

/// The rows, and the folder that their references start from.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) tasks: Vec<Task>,
    pub(super) root: PathBuf,
}

/// Which half of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Half {
    /// The settings are searched on it.
    Search,
    /// What was found is confirmed on it.
    Confirm,
}

impl Half {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Confirm => "confirm",
        }
    }
}

/// Reads the rows: everything that is wrong with any is said at once.
pub(super) fn read(command: &Calibrate, config: &Config, work: &Path) -> Result<Rows, Failure> {
    let rules = Rules {
        settings: Settings::default(),
        seed: config.run.seed,
        compare: Vec::new(),
        references: References::FilesAndUrls,
        plain_http: false,
        follow_links: command.reading.follow_links,
        extra_columns: config.run.extra_columns,
        columns: command.reading.columns()?,
    };
    let manifest = if command.references.is_dir() {
        let rows = folder_rows(&command.references, &command.prompts)?;
        let path = work.join("rows.jsonl");
        fs::write(&path, rows).map_err(|error| unwritable(&path, error))?;
        run::open(&path, None, rules)?.with_root(&command.references).map_err(Failure::permanent)?
    } else if command.prompts.is_empty() {
        run::open(&command.references, None, rules)?
    } else {
        return Err(Failure::usage(anyhow::anyhow!(
            "--prompt is for a folder of pictures; the rows of a manifest have prompts of their own"
        )));
    };
    let report = manifest.validate(&|_| Ok(()), issues::SHOWN).map_err(Failure::permanent)?;
    if report.issue_count > 0 {
        return Err(run::invalid(&command.references, &report, false));
    }
    let tasks = manifest.tasks(&report).map_err(Failure::try_again)?;
    let tasks = tasks.take(MOST_ROWS).collect::<Result<Vec<Task>, _>>().map_err(Failure::permanent)?;
    check(&tasks)?;
    Ok(Rows { tasks, root: manifest.root().to_owned() })
}

pub(super) fn unwritable(path: &Path, error: std::io::Error) -> Failure {
    Failure::try_again(anyhow::anyhow!("{} cannot be written: {error}", path.display()))
}

/// A row for each picture of a folder and each line of the text of its name beside it, or each of `prompts` where there
/// is none; its region is `NAME.region.png`, where that is there.
fn folder_rows(folder: &Path, prompts: &[String]) -> Result<String, Failure> {
    let read = |error| Failure::permanent(anyhow::anyhow!("{} cannot be read: {error}", folder.display()));
    let mut names: Vec<String> = fs::read_dir(folder)
        .map_err(read)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| stem(name).is_some_and(|stem| !stem.ends_with(".region")))
        .collect();
    names.sort();
    let mut rows = String::new();
    for (at, name) in names.iter().enumerate() {
        let stem = stem(name).unwrap_or_default();
        let beside = fs::read_to_string(folder.join(format!("{stem}.txt"))).unwrap_or_default();
        let beside: Vec<&str> = beside.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let prompts: Vec<&str> = if beside.is_empty() { prompts.iter().map(String::as_str).collect() } else { beside };
        if prompts.is_empty() {
            return Err(Failure::permanent(anyhow::anyhow!(
                "{} has no prompt: write one a line into {stem}.txt beside it, or give --prompt for all of them",
                folder.join(name).display()
            )));
        }
        let region = format!("{stem}.region.png");
        for (n, prompt) in prompts.iter().enumerate() {
            let mut row = json!({ "custom_id": format!("{at:04}-{n}"), "reference": name, "prompt": prompt });
            if folder.join(&region).is_file() {
                row["region"] = region.as_str().into();
            }
            rows.push_str(&format!("{row}\n"));
        }
    }
    if rows.is_empty() {
        let problem = format!("{} holds no picture (names that end with {})", folder.display(), PICTURES.join(", "));
        return Err(Failure::permanent(anyhow::anyhow!(problem)));
    }
    Ok(rows)
}

/// A picture's name without its ending.
fn stem(name: &str) -> Option<&str> {
    let (stem, ending) = name.rsplit_once('.')?;
    PICTURES.contains(&ending.to_lowercase().as_str()).then_some(stem)
}

/// Refuses rows that settings cannot be measured on.
fn check(tasks: &[Task]) -> Result<(), Failure> {
    let refuse = |message: String| Err(Failure::permanent(anyhow::anyhow!(message)));
    if tasks.len() < 2 {
        return refuse(
            "one row is not enough: settings are searched on some rows and confirmed on others; give at \
                       least two, better a dozen"
                .to_owned(),
        );
    }
    for task in tasks {
        let Settings { preset, method, scheduler, steps, strength, edit_steps, threshold, layers, score, .. } =
            &task.settings;
        let own = [
            ("preset", preset.is_some()),
            ("method", method.is_some()),
            ("scheduler", scheduler.is_some()),
            ("steps", steps.is_some()),
            ("strength", strength.is_some()),
            ("edit_steps", edit_steps.is_some()),
            ("threshold", threshold.is_some()),
            ("layers", layers.is_some()),
            ("score", score.is_some()),
        ];
        if let Some((key, _)) = own.iter().find(|(_, own)| *own) {
            return refuse(format!(
                "the row {} sets {key}, which a calibration decides, or on which it depends; leave it out",
                task.custom_id
            ));
        }
        if !matches!(task.reference, Some(Reference::File(_))) {
            return refuse(format!(
                "the reference of the row {} is no file; download it: pictures are compared with it here",
                task.custom_id
            ));
        }
    }
    Ok(())
}

impl Rows {
    /// The rows of both halves. Rows of one reference stay together where there are several references; which are where
    /// depends on the references' names alone.
    pub(super) fn halves(&self) -> [Vec<&Task>; 2] {
        let mut groups: BTreeMap<String, Vec<&Task>> = BTreeMap::new();
        for task in &self.tasks {
            groups.entry(named(&task.reference)).or_default().push(task);
        }
        let mut groups: Vec<(String, Vec<&Task>)> = if groups.len() > 1 {
            groups.into_iter().collect()
        } else {
            self.tasks.iter().map(|task| (task.custom_id.to_string(), vec![task])).collect()
        };
        groups.sort_by_key(|(name, _)| Sha256Hex::of(name.as_bytes()).to_string());
        let mut halves = [Vec::new(), Vec::new()];
        for (_, group) in groups {
            let smaller = if halves[1].len() < halves[0].len() { 1 } else { 0 };
            halves[smaller].extend(group);
        }
        halves
    }

    /// The digests of all files that are compared with, by name.
    pub(super) fn digests(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut digests = BTreeMap::new();
        for name in self.tasks.iter().flat_map(|task| [named(&task.reference), named(&task.region)]) {
            if name.is_empty() || digests.contains_key(&name) {
                continue;
            }
            let path = self.root.join(&name);
            let bytes = fs::read(&path)
                .map_err(|error| Failure::permanent(anyhow::anyhow!("{} cannot be read: {error}", path.display())))?;
            digests.insert(name, Sha256Hex::of(&bytes).to_string());
        }
        Ok(digests)
    }

    /// Whether each row says where its subject may be.
    pub(super) fn all_have_regions(&self) -> bool {
        self.tasks.iter().all(|task| task.region.is_some())
    }
}

fn named(reference: &Option<Reference>) -> String {
    reference.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// A manifest of the pictures `samples` of a half: each row with its own seed, then each with a second one, and so on. The
/// number of a picture is its name.
pub(super) fn manifest(half: &[&Task], samples: std::ops::Range<usize>) -> String {
    samples.map(|at| format!("{}\n", sample(half[at % half.len()], at / half.len(), at))).collect()
}

fn sample(task: &Task, seed: usize, at: usize) -> Value {
    // The first is the row's own; the others follow from it, whatever settings are tried.
    let seed = match seed {
        0 => task.seed.get(),
        more => Seed::derive(task.seed, &task.custom_id).get().wrapping_add(more as u64) & Seed::MAX,
    };
    let mut row: Map<String, Value> = match serde_json::to_value(&task.settings) {
        Ok(Value::Object(settings)) => settings,
        _ => Map::new(),
    };
    row.insert("custom_id".into(), name(at).into());
    row.insert("reference".into(), named(&task.reference).into());
    row.insert("prompt".into(), task.prompt.clone().into());
    row.insert("seed".into(), seed.into());
    row.insert("row".into(), task.custom_id.as_str().into());
    if let Some(subjects) = &task.subjects {
        row.insert("subjects".into(), subjects.clone().into());
    }
    if task.region.is_some() {
        row.insert("region".into(), named(&task.region).into());
    }
    row.into()
}

/// The name of a picture.
pub(super) fn name(at: usize) -> String {
    format!("{at:05}")
}

/// The manifest in a file, as a run reads it.
pub(super) fn opened(path: &Path, root: &Path, config: &Config, follow_links: bool) -> Result<Manifest, Failure> {
    let rules = Rules {
        settings: config.settings.clone(),
        seed: config.run.seed,
        compare: Vec::new(),
        references: References::FilesAndUrls,
        plain_http: false,
        follow_links,
        extra_columns: config.run.extra_columns,
        columns: BTreeMap::new(),
    };
    run::open(path, None, rules)?.with_root(root).map_err(Failure::permanent)
}

#[cfg(test)]
mod tests {
    use diorama_core::id::{CustomId, TaskIndex};
    use diorama_core::manifest::Extra;

    use super::*;

    fn task(id: &str, reference: &str) -> Task {
        Task {
            index: TaskIndex(0),
            custom_id: CustomId::new(id).unwrap(),
            reference: Some(Reference::File(reference.to_owned())),
            region: None,
            prompt: "a gull".to_owned(),
            subjects: None,
            seed: Seed::new(7).unwrap(),
            settings: Settings::default(),
            extra: Extra::default(),
        }
    }

    #[test]
    fn the_halves_share_no_reference_and_are_about_as_large() {
        let tasks = (0..24).map(|n| task(&format!("row-{n}"), &format!("{}.png", n / 2))).collect();
        let rows = Rows { tasks, root: PathBuf::new() };
        let [search, confirm] = rows.halves();
        assert_eq!((search.len(), confirm.len()), (12, 12));
        let shared = search.iter().find(|one| confirm.iter().any(|other| other.reference == one.reference));
        assert_eq!(shared, None);
        let alone = Rows { tasks: (0..5).map(|n| task(&format!("row-{n}"), "a.png")).collect(), root: PathBuf::new() };
        assert_eq!(alone.halves().map(|half| half.len()), [3, 2], "one reference alone is in both");
    }

    #[test]
    fn no_two_pictures_of_a_half_have_reference_prompt_and_seed_in_common() {
        let (a, b) = (task("a", "a.png"), task("b", "a.png"));
        let rows: Vec<Value> =
            manifest(&[&a, &b], 0..8).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows[0]["seed"], 7);
        let unlike: std::collections::BTreeSet<String> =
            rows.iter().map(|row| format!("{} {}", row["row"], row["seed"])).collect();
        assert_eq!(unlike.len(), 8);
    }

    #[test]
    fn a_row_that_sets_what_is_searched_is_refused_by_name() {
        let settings = Settings { threshold: Some(1.0), ..Settings::default() };
        let own = Task { settings, ..task("own", "a.png") };
        let said = check(&[task("a", "a.png"), own]).unwrap_err().to_string();
        assert!(said.contains("the row own sets threshold"), "{said}");
    }
}
