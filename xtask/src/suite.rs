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
    offline_once: Option<bool>,
    train_per_class: Option<usize>,
    test_per_class: Option<usize>,
    holdout: Option<f64>,
    /// Changes of settings by method or row, or `*` for all that have them.
    #[serde(default)]
    set: Changes,
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
    /// The rows of the tables: methods, and variants of methods as `NAME/LABEL`.
    pub methods: Vec<String>,
    pub streams: Vec<String>,
    pub seeds: Vec<u64>,
    #[serde(with = "device_name")]
    pub device: DeviceChoice,
    pub preset: Preset,
    pub eval: EvalPoints,
    pub prequential: bool,
    /// Whether offline references learn once, after the last task.
    pub offline_once: bool,
    pub train_per_class: Option<usize>,
    pub test_per_class: Option<usize>,
    pub holdout: Option<f64>,
    /// The settings of each row, complete.
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
        // A variant that the file has settings for may be left out on the command line.
        let mut known = file.methods.clone().unwrap_or_default();
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
            offline_once: options.offline_once || file.offline_once.unwrap_or_default(),
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
        known.extend(suite.methods.iter().cloned());
        let mut set = file.set;
        for change in &options.set {
            let (scope, key, value) = parse_change(change, &known)?;
            set.entry(scope).or_default().insert(key, value);
        }
        suite.check(&set, &known)?;
        Ok(suite)
    }

    /// Checks everything and makes the settings of each row. `known` are the rows that a change may name.
    fn check(&mut self, set: &Changes, known: &[String]) -> Result<()> {
        check_name("name", &self.name)?;
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
        for scope in set.keys().filter(|scope| *scope != "*") {
            method(method_of(scope))?;
            if method_of(scope) != scope && !known.contains(scope) {
                let found = "settings of a row that is not run";
                let expected = format!("`{scope}` among `methods`, which are {}", known.join(", "));
                return Err(Error::config(format!("set.\"{scope}\""), found, expected));
            }
        }
        for row in &self.methods {
            let method = method(method_of(row))?;
            let own = set.get(row).filter(|changes| !changes.is_empty());
            if let Some((_, label)) = row.split_once('/') {
                check_name("methods", label)?;
                if own.is_none() {
                    let expected = format!(
                        "settings of its own: `--set {row}.KEY=VALUE`, or `[set.\"{row}\"]` in the suite"
                    );
                    return Err(Error::config("methods", row, expected));
                }
            }
            let mut settings = method.settings(&self.setting(method), &Map::new())?;
            if let Some(changes) = set.get("*") {
                settings = apply_recipe(settings, method, changes)?;
            }
            // Those of the method first, then those of the variant.
            let of_method = set.get(method.name).filter(|_| row != method.name);
            for changes in of_method.into_iter().chain(own) {
                settings = method.change(settings, changes)?;
            }
            method.settings.validate(&settings)?;
            self.settings.insert(row.clone(), settings);
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

    /// The tuning that a row has in tables.
    pub fn tuning_of(&self, row: &str) -> Result<Tuning> {
        Ok(method(method_of(row))?.tuning(self.tuning))
    }
}

/// Changes of settings by method, by row or by `*`.
type Changes = BTreeMap<String, Map<String, Value>>;

/// The method of a row: `er` of `er/small` and of `er`.
pub fn method_of(row: &str) -> &str {
    row.split_once('/').map_or(row, |(method, _)| method)
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

/// `er.buffer=200` or `er/small.buffer=200`: the method or row, the key, the value (TOML, or else text).
fn parse_change(text: &str, rows: &[String]) -> Result<(String, String, Value)> {
    let wrong = || Error::config("--set", text, "METHOD.KEY=VALUE, such as er.buffer=200");
    let (path, value) = text.split_once('=').ok_or_else(wrong)?;
    // A label may have points, so that a row that there is comes before the first of them.
    let of_row = rows.iter().filter_map(|row| {
        let key = path.strip_prefix(row.as_str())?.strip_prefix('.')?;
        Some((row.as_str(), key))
    });
    let longest = of_row.max_by_key(|(row, _)| row.len());
    let (method, key) = longest.or(path.split_once('.')).ok_or_else(wrong)?;
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|table| serde_json::to_value(table.get("value")?).ok())
        .unwrap_or_else(|| Value::String(value.to_owned()));
    Ok((method.to_owned(), key.to_owned(), parsed))
}

/// A name is a folder's name, and a variant's label keeps to the same letters.
fn check_name(field: &str, name: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(fine) {
        return Err(Error::config(
            field,
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
    use everburn::core::ReservoirRule;
    use everburn::lae::LaeConfig;
    use everburn::mos::MosConfig;
    use everburn::onpro::OnProConfig;
    use everburn::slca::SlcaConfig;

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
    fn all_ready_suites_are_right_and_those_of_papers_say_what_is_published() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../suites");
        let mut read = BTreeMap::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "toml") {
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                let options = BenchOptions {
                    suite: Some(path),
                    ..BenchOptions::default()
                };
                read.insert(name, Suite::new(&options).unwrap());
            }
        }
        assert!(read.len() > 8);
        let is = |suite: &str, row: &str, published: serde_json::Result<serde_json::Value>| {
            assert_eq!(
                read[suite].settings[row],
                published.unwrap(),
                "{suite}, {row}"
            );
        };
        let to_value = |config: LaeConfig| serde_json::to_value(config);
        is(
            "imagenet-r-lae-vit-b16",
            "lae",
            to_value(LaeConfig::imagenet_r()),
        );
        is(
            "domainnet-lae-vit-b16",
            "lae",
            to_value(LaeConfig::imagenet_r()),
        );
        is(
            "cifar100-lae-vit-b16",
            "lae/adapter",
            to_value(LaeConfig::cifar100()),
        );
        let to_value = |config: SlcaConfig| serde_json::to_value(config);
        let (cifar100, imagenet_r) = ("cifar100-slca-vit-b16", "imagenet-r-slca-vit-b16");
        is(cifar100, "slca", to_value(SlcaConfig::cifar100()));
        is(cifar100, "slca-plus", to_value(SlcaConfig::plus_cifar100()));
        is(imagenet_r, "slca", to_value(SlcaConfig::imagenet_r()));
        is(
            imagenet_r,
            "slca-plus",
            to_value(SlcaConfig::plus_imagenet_r()),
        );
        let to_value = |config: MosConfig| serde_json::to_value(config);
        let (cifar100, imagenet_r) = ("cifar100-mos-vit-b16", "imagenet-r-mos-vit-b16");
        is(cifar100, "mos", to_value(MosConfig::cifar100()));
        is(imagenet_r, "mos", to_value(MosConfig::imagenet_r()));
        let to_value = |config: OnProConfig| serde_json::to_value(config);
        let (cifar10, cifar100) = ("cifar10-onpro-resnet18", "cifar100-onpro-resnet18");
        is(cifar10, "onpro", to_value(OnProConfig::cifar10()));
        is(cifar100, "onpro", to_value(OnProConfig::cifar100()));
        let released = |published: OnProConfig, classes| {
            to_value(OnProConfig {
                reservoir: ReservoirRule::Batched,
                classes: Some(classes),
                ..published
            })
        };
        let row = "onpro/released";
        is(cifar10, row, released(OnProConfig::cifar10(), 10));
        is(cifar100, row, released(OnProConfig::cifar100(), 100));
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

    fn suite(methods: &[&str], set: &[&str]) -> Result<Suite> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let options = BenchOptions {
            methods: owned(methods),
            set: owned(set),
            ..BenchOptions::default()
        };
        Suite::complete(SuiteFile::default(), Path::new(""), &options)
    }

    #[test]
    fn a_variant_changes_what_the_method_changes_what_the_star_changes() {
        let set = [
            "er/b.recipe.epochs=4",
            "er/a1.5.buffer=7",
            "er.recipe.epochs=3",
            "er.recipe.batch=9",
            "*.epochs=2",
            "*.batch=8",
            "*.online_batch=6",
        ];
        let rows = ["er", "er/b", "er/a1.5", "joint"];
        let suite = suite(&rows, &set).unwrap();
        let recipe = |row: &str, key: &str| suite.settings[row]["recipe"][key].clone();
        for (row, epochs) in [("er", 3), ("er/b", 4), ("er/a1.5", 3)] {
            assert_eq!(recipe(row, "epochs"), epochs, "{row}");
            assert_eq!(recipe(row, "batch"), 9);
            assert_eq!(recipe(row, "online_batch"), 6);
        }
        assert_eq!(suite.settings["er/a1.5"]["buffer"], 7);
        assert_eq!(suite.settings["er"]["buffer"], 500);
        assert_eq!(suite.settings["joint"]["epochs"], 2);
        assert_eq!(suite.methods, rows);
        assert_eq!(suite.tuning_of("er/b").unwrap(), Tuning::Frozen);
    }

    #[test]
    fn a_variant_needs_settings_and_settings_a_variant() {
        let message = |methods: &[&str], set: &[&str]| {
            let error = suite(methods, set).unwrap_err();
            error.to_string()
        };
        let alone = message(&["er", "er/small"], &["er.buffer=9"]);
        assert!(alone.contains("--set er/small.KEY=VALUE"), "{alone}");
        assert!(alone.contains("[set.\"er/small\"]"), "{alone}");
        let typo = message(
            &["er", "er/small"],
            &["er/small.buffer=9", "er/smal.buffer=8"],
        );
        assert!(typo.contains("set.\"er/smal\""), "{typo}");
        assert!(typo.contains("er, er/small"), "{typo}");
        let method = message(&["err/small"], &["err/small.buffer=9"]);
        assert!(method.contains("did you mean `er`"), "{method}");
        for label in ["", ".a", "a/b", "a b"] {
            let row = format!("er/{label}");
            let text = message(&[&row], &[&format!("{row}.buffer=9")]);
            assert!(text.contains("letters, digits"), "{row}: {text}");
        }
        // A method that is not run may have settings, as ever.
        assert!(suite(&["joint"], &["er.buffer=9"]).is_ok());
    }

    #[test]
    fn a_variant_of_the_file_may_be_left_out_on_the_command_line() {
        let file = "methods = [\"er\", \"er/small\"]\n[set.\"er/small\"]\nbuffer = 5\n";
        let file: SuiteFile = toml::from_str(file).unwrap();
        let complete = |methods: &[&str]| {
            let options = BenchOptions {
                methods: methods.iter().map(|name| (*name).to_owned()).collect(),
                ..BenchOptions::default()
            };
            Suite::complete(file.clone(), Path::new(""), &options).unwrap()
        };
        assert_eq!(complete(&[]).settings["er/small"]["buffer"], 5);
        let suite = complete(&["er"]);
        assert_eq!(suite.settings.len(), 1);
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
