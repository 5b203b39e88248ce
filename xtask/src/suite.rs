//! A suite: methods × streams × seeds on one data set, backbone and device.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use everburn::backend::DeviceChoice;
use everburn::core::{Error, Result};
use everburn::methods::{Method, method};
use everburn::nn::{Preset, Setting, Tuning};
use everburn::stream::{EvalPoints, scenario};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cli::BenchOptions;

/// A suite as a file may say it. Everything has a default; the defaults are the main job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SuiteFile {
    name: Option<String>,
    dataset: Option<String>,
    preprocess: Option<String>,
    backbone: Option<String>,
    tuning: Option<String>,
    methods: Option<Vec<String>>,
    streams: Option<Vec<String>>,
    seeds: Option<Seeds>,
    device: Option<String>,
    preset: Option<String>,
    evaluations: Option<u64>,
    eval_period: Option<u64>,
    prequential: Option<bool>,
    train_per_class: Option<usize>,
    test_per_class: Option<usize>,
    holdout: Option<f64>,
    /// Changes of settings by method, or `*` for all that have them.
    #[serde(default)]
    set: BTreeMap<String, Map<String, Value>>,
}

/// Seeds as a list or as text, `"0..5"`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Seeds {
    List(Vec<u64>),
    Text(String),
}

/// The network that images go through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackboneChoice {
    /// The ViT that comes with everburn.
    Embedded,
    /// The reduced ResNet-18 with random weights and so many filters.
    ResNet18(usize),
    /// A ViT's weights in timm's layout.
    File(PathBuf),
}

impl BackboneChoice {
    fn parse(text: &str, base: &Path) -> Result<Self> {
        let (name, rest) = text
            .split_once(':')
            .map_or((text, None), |(n, r)| (n, Some(r)));
        match (name, rest) {
            ("embedded", None) => Ok(Self::Embedded),
            ("resnet18", None) => Ok(Self::ResNet18(20)),
            ("resnet18", Some(filters)) => filters
                .parse()
                .map(Self::ResNet18)
                .map_err(|_| Error::config("backbone", text, "resnet18:FILTERS, e.g. resnet18:64")),
            _ if [".safetensors", ".pth", ".pt", ".bin"]
                .iter()
                .any(|end| text.ends_with(end)) =>
            {
                Ok(Self::File(base.join(text)))
            }
            _ => Err(Error::unknown(
                "backbone",
                text,
                [
                    "embedded",
                    "resnet18",
                    "resnet18:64",
                    "FILE.safetensors",
                    "FILE.pth",
                ],
            )),
        }
    }

    /// Whether it begins with random weights.
    pub fn is_random(&self) -> bool {
        matches!(self, Self::ResNet18(_))
    }
}

/// A suite, complete and checked. As JSON it goes to the processes that do its runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Suite {
    pub name: String,
    pub dataset: String,
    pub data_dir: Option<PathBuf>,
    /// Bytes of images that may stay in memory.
    pub memory_budget: Option<u64>,
    pub spool_dir: Option<PathBuf>,
    pub preprocess: String,
    pub backbone: BackboneChoice,
    pub tuning: Tuning,
    pub methods: Vec<String>,
    pub streams: Vec<String>,
    pub seeds: Vec<u64>,
    #[serde(with = "device_name")]
    pub device: DeviceChoice,
    pub preset: Preset,
    pub eval: EvalPoints,
    pub prequential: bool,
    pub train_per_class: Option<usize>,
    pub test_per_class: Option<usize>,
    pub holdout: Option<f64>,
    /// The settings of each method, complete.
    pub settings: BTreeMap<String, Value>,
}

impl Suite {
    /// Reads the suite file, if there is one, and puts the command line over it.
    pub fn new(options: &BenchOptions) -> anyhow::Result<Self> {
        let (file, base) = match &options.suite {
            Some(path) => (
                read(path)?,
                path.parent().unwrap_or(Path::new(".")).to_owned(),
            ),
            None => (SuiteFile::default(), PathBuf::new()),
        };
        Ok(Self::complete(file, &base, options)?)
    }

    fn complete(file: SuiteFile, base: &Path, options: &BenchOptions) -> Result<Self> {
        let text = |option: &Option<String>, file: Option<String>, default: &str| {
            option
                .clone()
                .or(file)
                .unwrap_or_else(|| default.to_owned())
        };
        let dataset = text(&options.dataset, file.dataset, "digits");
        // A path on the command line is the user's, one in a suite file lies beside that file.
        let backbone = match (&options.backbone, &file.backbone) {
            (Some(name), _) => BackboneChoice::parse(name, Path::new(""))?,
            (None, Some(name)) => BackboneChoice::parse(name, base)?,
            (None, None) => BackboneChoice::Embedded,
        };
        let tuning = match (&options.tuning, &file.tuning) {
            (None, None) if backbone.is_random() => Tuning::Full,
            (option, file) => text(option, file.clone(), "frozen").parse()?,
        };
        let preset: Preset = text(&options.preset, file.preset, "cpu").parse()?;
        let methods = list(
            &options.methods,
            file.methods,
            &["finetune", "er", "simplecil", "joint"],
        );
        let streams = list(
            &streams(&options.streams),
            file.streams,
            &["split-5", "si-blurry"],
        );
        let seeds = match (&options.seeds, file.seeds) {
            (Some(text), _) => parse_seeds(text)?,
            (None, Some(Seeds::Text(text))) => parse_seeds(&text)?,
            (None, Some(Seeds::List(seeds))) => seeds,
            (None, None) => (0..5).collect(),
        };
        let mut seen = std::collections::BTreeSet::new();
        let seeds: Vec<u64> = seeds
            .into_iter()
            .filter(|seed| seen.insert(*seed))
            .collect();
        let eval = match (options.evaluations, options.eval_period) {
            (Some(count), _) => EvalPoints::Count(count),
            (_, Some(period)) => EvalPoints::Period(period),
            _ => match (file.evaluations, file.eval_period) {
                (Some(_), Some(period)) => {
                    let expected = "either `evaluations` or `eval-period`";
                    return Err(Error::config("eval-period", period, expected));
                }
                (_, Some(period)) => EvalPoints::Period(period),
                (count, None) => EvalPoints::Count(count.unwrap_or(50)),
            },
        };
        let preprocess = text(
            &options.preprocess,
            file.preprocess,
            default_preprocess(&dataset),
        );
        let default_name = default_name(options, &dataset);
        let mut suite = Self {
            name: text(&options.name, file.name, &default_name),
            data_dir: options.data_dir.clone(),
            memory_budget: options.memory_budget.map(|mib| mib.saturating_mul(1 << 20)),
            spool_dir: options.spool_dir.clone(),
            preprocess,
            tuning,
            device: text(&options.device, file.device, "cpu").parse()?,
            preset,
            eval,
            prequential: options.prequential || file.prequential.unwrap_or_default(),
            train_per_class: options.train_per_class.or(file.train_per_class),
            test_per_class: options.test_per_class.or(file.test_per_class),
            holdout: options.holdout.or(file.holdout),
            settings: BTreeMap::new(),
            dataset,
            backbone,
            methods,
            streams,
            seeds,
        };
        let mut set = file.set;
        for change in &options.set {
            let (method, key, value) = parse_change(change)?;
            set.entry(method).or_default().insert(key, value);
        }
        suite.check(set)?;
        Ok(suite)
    }

    fn check(&mut self, set: BTreeMap<String, Map<String, Value>>) -> Result<()> {
        check_name(&self.name)?;
        for (field, empty) in [
            ("methods", self.methods.is_empty()),
            ("streams", self.streams.is_empty()),
            ("seeds", self.seeds.is_empty()),
        ] {
            if empty {
                return Err(Error::config(field, "none", "at least one"));
            }
        }
        self.eval.schedule(1)?;
        for name in &self.streams {
            scenario(name)?;
        }
        for name in set.keys().filter(|name| *name != "*") {
            method(name)?;
        }
        for name in &self.methods {
            let method = method(name)?;
            let mut settings = method.settings(&self.setting(method), &Map::new())?;
            for (scope, changes) in &set {
                if scope == name {
                    settings = method.change(settings, changes)?;
                } else if scope == "*" {
                    settings = apply_recipe(settings, method, changes)?;
                }
            }
            method.settings.validate(&settings)?;
            self.settings.insert(name.clone(), settings);
        }
        Ok(())
    }

    /// What a method's preset is asked for.
    fn setting(&self, method: &Method) -> Setting {
        Setting {
            preset: self.preset,
            tuning: method.tuning(self.tuning),
            from_scratch: self.backbone.is_random(),
        }
    }

    /// The tuning that a method has in tables.
    pub fn tuning_of(&self, name: &str) -> Result<Tuning> {
        Ok(method(name)?.tuning(self.tuning))
    }
}

/// A device by its name, such as `cuda:0`.
mod device_name {
    use everburn::backend::DeviceChoice;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(device: &DeviceChoice, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(device)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DeviceChoice, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// `*` means the recipe, which some methods nest, some are and some do not have.
fn apply_recipe(settings: Value, method: &Method, changes: &Map<String, Value>) -> Result<Value> {
    let nested = settings.get("recipe").is_some();
    if !nested && settings.get("training").is_none() {
        return Ok(settings);
    }
    let prefixed = changes.iter().map(|(key, value)| {
        let key = if nested {
            format!("recipe.{key}")
        } else {
            key.clone()
        };
        (key, value.clone())
    });
    method.change(settings, &prefixed.collect())
}

fn read(path: &Path) -> anyhow::Result<SuiteFile> {
    let source = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| anyhow::anyhow!("{source}: {e}"))?;
    toml::from_str(&text).map_err(|error| {
        let message = error.message().to_owned();
        let before = error
            .span()
            .and_then(|span| text.get(..span.start))
            .unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        crate::Usage(format!("{source}, line {line}: {message}")).into()
    })
}

fn list(option: &[String], file: Option<Vec<String>>, default: &[&str]) -> Vec<String> {
    let mut list = if option.is_empty() {
        file.unwrap_or_else(|| default.iter().map(|name| (*name).to_owned()).collect())
    } else {
        option.to_vec()
    };
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|name| seen.insert(name.clone()));
    list
}

/// `split-5,si-blurry` are two streams, `si-blurry:n=50,m=10` is one.
fn streams(options: &[String]) -> Vec<String> {
    let mut streams: Vec<String> = Vec::new();
    for part in options.iter().flat_map(|option| option.split(',')) {
        match streams.last_mut() {
            Some(last) if part.contains('=') && !part.contains(':') => {
                last.push(',');
                last.push_str(part);
            }
            _ => streams.push(part.trim().to_owned()),
        }
    }
    streams
}

/// `0..5` is 0, 1, 2, 3, 4; `1,5,9` is itself.
fn parse_seeds(text: &str) -> Result<Vec<u64>> {
    let wrong = || Error::config("seeds", text, "0..5 or 1,2,3");
    let number = |part: &str| part.trim().parse::<u64>().map_err(|_| wrong());
    if let Some((from, to)) = text.split_once("..") {
        let (from, to) = (number(from)?, number(to)?);
        if to <= from || to - from > 10_000 {
            return Err(wrong());
        }
        return Ok((from..to).collect());
    }
    text.split(',').map(number).collect()
}

/// `er.buffer=200`: the method, the key, the value (TOML, or else text).
fn parse_change(text: &str) -> Result<(String, String, Value)> {
    let wrong = || Error::config("--set", text, "METHOD.KEY=VALUE, such as er.buffer=200");
    let (path, value) = text.split_once('=').ok_or_else(wrong)?;
    let (method, key) = path.split_once('.').ok_or_else(wrong)?;
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|table| serde_json::to_value(table.get("value")?).ok())
        .unwrap_or_else(|| Value::String(value.to_owned()));
    Ok((method.to_owned(), key.to_owned(), parsed))
}

/// A name is a folder's name.
fn check_name(name: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(fine) {
        return Err(Error::config(
            "name",
            name,
            "letters, digits, `-`, `_` and `.`",
        ));
    }
    Ok(())
}

fn default_name(options: &BenchOptions, dataset: &str) -> String {
    match options.suite.as_ref().and_then(|path| path.file_stem()) {
        Some(stem) => stem.to_string_lossy().into_owned(),
        None => dataset
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect(),
    }
}

/// The embedded backbone takes 32×32 RGB.
fn default_preprocess(dataset: &str) -> &'static str {
    match dataset {
        "cifar10" | "cifar100" | "cifar100-coarse" => "native",
        _ => "resize-32",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_ranges_or_lists() {
        assert_eq!(parse_seeds("0..3").unwrap(), [0, 1, 2]);
        assert_eq!(parse_seeds("7, 9").unwrap(), [7, 9]);
        assert!(parse_seeds("3..3").is_err() && parse_seeds("a").is_err());
        let options = BenchOptions {
            seeds: Some("4,1,4".into()),
            ..BenchOptions::default()
        };
        assert_eq!(Suite::new(&options).unwrap().seeds, [4, 1]);
    }

    #[test]
    fn options_of_a_stream_stay_with_it() {
        let given = [
            "split-5,si-blurry:n=50,m=10".to_owned(),
            "si-blurry+borders".to_owned(),
        ];
        assert_eq!(
            streams(&given),
            ["split-5", "si-blurry:n=50,m=10", "si-blurry+borders"]
        );
    }

    #[test]
    fn changes_reach_their_method_and_the_star_reaches_every_recipe() {
        let options = BenchOptions {
            set: vec![
                "er.buffer=77".into(),
                "*.epochs=3".into(),
                "*.training.head_rate=0.5".into(),
            ],
            ..BenchOptions::default()
        };
        let suite = Suite::new(&options).unwrap();
        assert_eq!(suite.settings["er"]["buffer"], 77);
        assert_eq!(suite.settings["er"]["recipe"]["epochs"], 3);
        assert_eq!(suite.settings["joint"]["epochs"], 3);
        assert_eq!(suite.settings["finetune"]["training"]["head_rate"], 0.5);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |change: &dyn Fn(&mut BenchOptions)| {
            let mut options = BenchOptions::default();
            change(&mut options);
            Suite::new(&options).unwrap_err().to_string()
        };
        assert!(message(&|o| o.methods = vec!["simplecli".into()]).contains("`simplecil`"));
        assert!(message(&|o| o.streams = vec!["si-blury".into()]).contains("`si-blurry`"));
        assert!(message(&|o| o.set = vec!["er.bufer=1".into()]).contains("`buffer`"));
        assert!(message(&|o| o.tuning = Some("fully".into())).contains("`full`"));
        assert!(message(&|o| o.name = Some("../up".into())).contains("letters"));
        assert!(message(&|o| o.backbone = Some("vit".into())).contains("embedded"));
    }
}
