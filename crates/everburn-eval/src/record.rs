use std::collections::BTreeMap;

use everburn_core::{Error, Footprint, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::History;

/// The version of the shape of `result.json` that this crate writes and reads.
pub const SCHEMA: u32 = 1;

/// How far a recorded metric may be from the one that its history gives.
const RECOMPUTED: f64 = 1e-9;

/// What may be done with a stream, as far as tables care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamKind {
    /// Tasks with borders, whose samples may be seen for several epochs.
    Split,
    /// One pass over the samples, evaluated on the way.
    Online,
}

/// What was run, in names that need no suite to be understood.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDescription {
    /// The method.
    pub method: String,
    /// The stream; ends in `+borders` where the learner was told of task borders that the stream's
    /// definition hides.
    pub stream: String,
    /// The data set.
    pub dataset: String,
    /// The backbone.
    pub backbone: String,
    /// What of the backbone is trained.
    pub tuning: String,
    /// The preset of sizes and schedules.
    pub preset: String,
    /// The kind of device, such as `cpu` or `wgpu`; which one of a kind is in [`Accompanying`].
    pub device: String,
    /// The seed of the run.
    pub seed: u64,
    /// Whether the learner is a reference that learns only after the stream has ended; on an
    /// online stream only its last accuracy means anything.
    #[serde(default)]
    pub offline: bool,
    /// The kind of stream, where its history does not show it; see [`RunRecord::kind`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<StreamKind>,
}

/// Where a result comes from: hashes of all that decided it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The run: a hash of everything that decides the result.
    #[serde(default)]
    pub run_id: String,
    /// The settings.
    #[serde(default)]
    pub config_hash: String,
    /// The stream's manifest.
    #[serde(default)]
    pub manifest_hash: String,
    /// The data set: its images and labels as the learner gets them.
    #[serde(default)]
    pub dataset_hash: String,
    /// The weights that the backbone started from, if from any.
    #[serde(default)]
    pub weights_hash: Option<String>,
    /// The code: a hash of the sources that decide a result.
    #[serde(default)]
    pub code: String,
}

/// Hexadecimal digits of a run's id.
const RUN_ID_DIGITS: usize = 16;

impl Provenance {
    /// With `config_hash` and `run_id` as they follow from the run, its settings and the other
    /// hashes.
    #[must_use]
    pub fn identified(mut self, run: &RunDescription, settings: &Value) -> Self {
        let hash = |text: &str| blake3::hash(text.as_bytes()).to_hex().to_string();
        let config = json!({ "run": run, "settings": settings });
        self.config_hash = hash(&sorted(config).to_string());
        let parts = [
            self.config_hash.as_str(),
            &self.manifest_hash,
            &self.dataset_hash,
            self.weights_hash.as_deref().unwrap_or("no weights"),
            &self.code,
        ];
        let mut id = hash(&parts.join(" "));
        id.truncate(RUN_ID_DIGITS);
        self.run_id = id;
        self
    }
}

/// With the keys of all objects in alphabetical order, which some builds of `serde_json` keep anyway
/// and others do not: the same content is to have the same text.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> = fields.into_iter().collect();
            Value::Object(fields.into_iter().map(|(k, v)| (k, sorted(v))).collect())
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        other => other,
    }
}

/// What a learner held, counted by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountedMemory {
    /// The largest footprint at any time.
    pub peak: Footprint,
    /// The footprint at the end.
    #[serde(rename = "final")]
    pub last: Footprint,
}

/// The result of one run: the content of `result.json`.
///
/// Holds only what the configuration decides, so that two runs of the same configuration on the
/// same CPU write the same bytes; what merely came along is in [`Accompanying`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The version of this shape, [`SCHEMA`].
    pub schema: u32,
    /// What was run.
    pub run: RunDescription,
    /// Where it comes from.
    #[serde(default)]
    pub provenance: Provenance,
    /// Every setting of the method and of its evaluation, defaults included, so that a record alone
    /// tells what was run.
    #[serde(default)]
    pub settings: Value,
    /// All metrics that the history defines, by key, as fractions.
    pub metrics: BTreeMap<String, f64>,
    /// What the learner held.
    #[serde(default)]
    pub memory: Option<AccountedMemory>,
    /// All evaluations.
    pub history: History,
}

/// What merely accompanies a result: the content of `timing.json`. No two runs agree in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accompanying {
    /// Seconds from start to end, over all sessions of a resumed run.
    #[serde(default)]
    pub wall_seconds: Option<f64>,
    /// Seconds of these spent in learning.
    #[serde(default)]
    pub train_seconds: Option<f64>,
    /// Seconds of these spent in evaluation.
    #[serde(default)]
    pub eval_seconds: Option<f64>,
    /// The largest resident set of the process, in bytes.
    #[serde(default)]
    pub peak_rss_bytes: Option<u64>,
    /// Images trained on per second of learning, each showing of an image counted.
    #[serde(default)]
    pub images_per_second: Option<f64>,
    /// The machine.
    #[serde(default)]
    pub machine: Option<String>,
    /// How many runs were made beside each other on the machine, this one included: where it was more
    /// than one, times are of runs that shared its cores and caches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<usize>,
    /// The very device, of the kind that the record names.
    #[serde(default)]
    pub device: Option<String>,
    /// The commit that the program was built from. The record has the hash of the sources instead:
    /// a commit that changes only a document changes no result.
    #[serde(default)]
    pub commit: Option<String>,
    /// Whether the sources differed from that commit.
    #[serde(default)]
    pub dirty: bool,
    /// The command that asked for the run.
    #[serde(default)]
    pub command: Option<String>,
    /// When the run was last written: `unix`, and seconds since 1970.
    #[serde(default)]
    pub when: Option<String>,
}

impl RunRecord {
    /// A record with all metrics that the history defines.
    ///
    /// # Errors
    /// If the history is not in order; see [`History::check`].
    pub fn new(
        run: RunDescription,
        provenance: Provenance,
        history: History,
        memory: Option<AccountedMemory>,
    ) -> Result<Self> {
        Ok(Self {
            schema: SCHEMA,
            run,
            provenance,
            settings: Value::Null,
            metrics: history.metrics()?,
            memory,
            history,
        })
    }

    /// With the settings of the run.
    #[must_use]
    pub fn with_settings(mut self, settings: Value) -> Self {
        self.settings = sorted(settings);
        self
    }

    /// The kind of stream: as described, or else online if there are periodic evaluations or tasks
    /// that share classes.
    pub fn kind(&self) -> StreamKind {
        let online = || !self.history.disjoint || self.history.periodic().next().is_some();
        match self.run.kind {
            Some(kind) => kind,
            None if online() => StreamKind::Online,
            None => StreamKind::Split,
        }
    }

    /// The text of `result.json`: the same bytes for the same content. Pretty, keys in fixed
    /// order, floats in their shortest form that reads back the same, a newline at the end.
    ///
    /// # Errors
    /// If a metric is not finite or the history is not in order.
    pub fn to_json(&self) -> Result<String> {
        self.check()?;
        write("run record", self)
    }

    /// Reads the text of a `result.json` and checks that its metrics follow from its history.
    /// `file` is the name to put into errors.
    ///
    /// # Errors
    /// Names the file and the first field that is wrong.
    pub fn from_json(file: &str, text: &str) -> Result<Self> {
        let record: Self = read(file, text)?;
        let within = |error| Error::other(file, error);
        record.check().map_err(within)?;
        record.check_metrics().map_err(within)?;
        Ok(record)
    }

    /// Checks that the run's id follows from what the record says was run.
    ///
    /// # Errors
    /// Names the hash that does not.
    pub fn check_identity(&self) -> Result<()> {
        let found = &self.provenance;
        let expected = (found.clone()).identified(&self.run, &self.settings);
        for (field, found, expected) in [
            ("config_hash", &found.config_hash, expected.config_hash),
            ("run_id", &found.run_id, expected.run_id),
        ] {
            if *found != expected {
                let expected = format!("{expected}, which follows from the run and its settings");
                return Err(Error::input(format!("provenance.{field}"), found, expected));
            }
        }
        Ok(())
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.schema != SCHEMA {
            return Err(Error::input("schema", self.schema, SCHEMA));
        }
        for (key, value) in &self.metrics {
            if !value.is_finite() {
                let field = format!("metrics.{key}");
                return Err(Error::input(field, value, "a finite number"));
            }
        }
        self.history.check()
    }

    /// A record may lack metrics that are newer than it, and have some that no history gives (such
    /// as intransigence); those that its history gives must agree.
    pub(crate) fn check_metrics(&self) -> Result<()> {
        for (key, expected) in self.history.metrics()? {
            match self.metrics.get(&key) {
                Some(found) if (found - expected).abs() > RECOMPUTED => {
                    return Err(Error::input(
                        format!("metrics.{key}"),
                        found,
                        format!("{expected}, which follows from the history"),
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Accompanying {
    /// The text of `timing.json`, in the manner of [`RunRecord::to_json`].
    ///
    /// # Errors
    /// If a number is not finite.
    pub fn to_json(&self) -> Result<String> {
        self.check()?;
        write("timing", self)
    }

    /// Reads the text of a `timing.json`; `file` is the name to put into errors.
    ///
    /// # Errors
    /// Names the file and the first field that is wrong.
    pub fn from_json(file: &str, text: &str) -> Result<Self> {
        let accompanying: Self = read(file, text)?;
        accompanying
            .check()
            .map_err(|error| Error::other(file, error))?;
        Ok(accompanying)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let numbers = [
            ("wall_seconds", self.wall_seconds),
            ("train_seconds", self.train_seconds),
            ("eval_seconds", self.eval_seconds),
            ("images_per_second", self.images_per_second),
        ];
        for (field, number) in numbers {
            if let Some(number) = number.filter(|number| !(0.0..f64::INFINITY).contains(number)) {
                return Err(Error::input(field, number, "a finite number from 0 on"));
            }
        }
        Ok(())
    }
}

fn write(what: &str, value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::other(format!("writing a {what}"), error))?;
    Ok(text + "\n")
}

fn read<T: DeserializeOwned>(file: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Error::other(file, error))
}
