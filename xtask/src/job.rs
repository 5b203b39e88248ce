//! The runs of a suite, and what they share: the data, the backbone, the streams.

use std::collections::BTreeMap;

use anyhow::Context as _;
use everburn::backend::Device;
use everburn::core::{Error, Key, Learner, Result};
use everburn::data::{Dataset, Holdout, LoadOptions, load};
use everburn::eval::{Provenance, RunDescription, StreamKind};
use everburn::methods::method;
use everburn::nn::{Backbone, Frozen, Normalise, Recipe, Tuning, WeightFile};
use everburn::run::{Labelled, Material, Partition, Plan, Settings};
use everburn::stream::{Manifest, scenario};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::code::CODE;
use crate::suite::{BackboneChoice, Suite, method_of};

/// What all runs of a suite share.
pub struct Shared {
    pub suite: Suite,
    pub dataset: Dataset,
    pub dataset_hash: String,
    /// By stream and seed.
    pub manifests: BTreeMap<(String, u64), Manifest>,
    /// The backbone, if all runs begin with the same weights.
    pub pretrained: Option<Frozen>,
    pub cache: Cache,
    device: Device,
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The row: a method, or a variant of one.
    pub method: String,
    pub stream: String,
    pub seed: u64,
}

impl std::fmt::Display for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            method,
            stream,
            seed,
        } = self;
        write!(f, "{method} on {stream}, seed {seed}")
    }
}

impl Shared {
    /// Loads what the suite needs, and compiles its streams.
    pub fn load(suite: Suite, cache: Cache) -> anyhow::Result<Self> {
        let device = suite.device.open()?;
        let dataset = load_dataset(&suite)?;
        let mut manifests = BTreeMap::new();
        for stream in &suite.streams {
            for seed in &suite.seeds {
                let manifest = scenario(stream)?
                    .compile(&dataset.train.labels, dataset.num_classes(), *seed)
                    .with_context(|| format!("stream `{stream}` on {}", dataset.name))?;
                manifests.insert((stream.clone(), *seed), manifest);
            }
        }
        let pretrained = match &suite.backbone {
            BackboneChoice::Embedded => Some(Backbone::embedded(&device)?),
            BackboneChoice::File(path) => {
                let name = path
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                let size = dataset.shape().height;
                let file = WeightFile::open(path)?;
                // Another file of the same name is another backbone in tables.
                let name = format!("{name} ({})", file.hash().get(..8).unwrap_or_default());
                Some(Backbone::vit_from_file(&name, file, Some(size), None, &device)?.0)
            }
            BackboneChoice::ResNet18(_) => None,
        };
        let frozen = pretrained.map(|backbone| Frozen::new(backbone, &device));
        Ok(Self {
            dataset_hash: dataset.identity()?,
            pretrained: frozen.map(|frozen| cache.attach(frozen)).transpose()?,
            cache,
            suite,
            dataset,
            manifests,
            device,
        })
    }

    /// All runs, or those of a partition: method by method, so that each partition gets its share of
    /// the slow ones.
    pub fn jobs(&self, partition: Option<Partition>) -> Vec<Job> {
        let mut jobs = Vec::new();
        for method in &self.suite.methods {
            for stream in &self.suite.streams {
                for seed in &self.suite.seeds {
                    let (method, stream) = (method.clone(), stream.clone());
                    jobs.push(Job {
                        method,
                        stream,
                        seed: *seed,
                    });
                }
            }
        }
        let mine = |index| partition.is_none_or(|partition| partition.contains(index));
        let jobs = jobs.into_iter().enumerate();
        jobs.filter_map(|(index, job)| mine(index).then_some(job))
            .collect()
    }

    /// The stream of a run.
    pub fn manifest(&self, job: &Job) -> Result<&Manifest> {
        let key = (job.stream.clone(), job.seed);
        self.manifests
            .get(&key)
            .ok_or_else(|| Error::other("a run's stream", "not compiled"))
    }

    /// What a run is about.
    pub fn material<'a>(&'a self, job: &Job) -> Result<Material<'a>> {
        let labelled = |split: &'a everburn::data::Split| Labelled {
            images: &split.images,
            labels: &split.labels,
        };
        Ok(Material {
            manifest: self.manifest(job)?,
            train: labelled(&self.dataset.train),
            test: labelled(&self.dataset.test),
        })
    }

    /// What decides a run besides its material and learner.
    ///
    /// How a stream is tested on the way decides nothing where there is no such test: on streams that
    /// do not pass once, and for references that learn after the end. That those do so once decides
    /// something for them alone, and where they could do it more often.
    pub fn settings(&self, job: &Job) -> Result<Settings> {
        let settings = Settings::new(job.seed);
        if !self.manifest(job)?.online {
            return Ok(Settings {
                offline_once: self.suite.offline_once && self.is_offline(job)?,
                ..settings
            });
        }
        if self.is_offline(job)? {
            return Ok(settings);
        }
        Ok(Settings {
            eval: self.suite.eval,
            prequential: self.suite.prequential,
            ..settings
        })
    }

    fn is_offline(&self, job: &Job) -> Result<bool> {
        let learner = self.learner(job, &self.frozen(job)?)?;
        Ok(learner.spec().offline)
    }

    /// The backbone that a run begins with. One with random weights is drawn from the run's seed, so
    /// that all methods of a seed begin with the same.
    pub fn frozen(&self, job: &Job) -> Result<Frozen> {
        if let Some(frozen) = &self.pretrained {
            return Ok(frozen.clone());
        }
        let BackboneChoice::ResNet18(filters) = self.suite.backbone else {
            return Err(Error::other("the backbone", "not loaded"));
        };
        let key = Key::from_seed(job.seed).child("backbone");
        let side = self.dataset.shape().height;
        let backbone = Backbone::resnet18(filters, side, self.normalise(), key, &self.device)?;
        Ok(Frozen::new(backbone, &self.device))
    }

    /// The data set's own statistics, for a network that begins with random weights.
    fn normalise(&self) -> Normalise {
        let known = everburn::data::info(&self.suite.dataset).ok();
        let three = |values: &[f32]| -> Option<[f32; 3]> {
            match *values {
                [grey] => Some([grey; 3]),
                [r, g, b] => Some([r, g, b]),
                _ => None,
            }
        };
        known
            .and_then(|entry| entry.normalisation.first())
            .and_then(|n| {
                Some(Normalise {
                    mean: three(n.mean)?,
                    std: three(n.std)?,
                })
            })
            .unwrap_or(Normalise::HALF)
    }

    /// A learner that has seen nothing.
    pub fn learner(&self, job: &Job, frozen: &Frozen) -> Result<Box<dyn Learner>> {
        let settings = self
            .suite
            .settings
            .get(&job.method)
            .cloned()
            .unwrap_or_default();
        let key = Key::from_seed(job.seed).child("learner");
        method(method_of(&job.method))?.build(settings, frozen.clone(), key)
    }

    /// What a run will be fed; refuses what cannot run.
    pub fn plan(&self, job: &Job) -> Result<Plan> {
        let learner = self.learner(job, &self.frozen(job)?)?;
        Plan::new(
            learner.as_ref(),
            self.manifest(job)?,
            &self.dataset.train.labels,
            &self.settings(job)?,
        )
    }

    /// Whether a run reads features from the cache.
    pub fn is_frozen(&self, job: &Job) -> Result<bool> {
        Ok(self.suite.tuning_of(&job.method)? == Tuning::Frozen)
    }

    /// The block before which a run reads tokens from the cache, if it does.
    pub fn cut(&self, job: &Job) -> Option<usize> {
        Recipe::within(self.suite.settings.get(&job.method)?)?.cut()
    }

    /// A run in words.
    pub fn describe(&self, job: &Job, frozen: &Frozen) -> Result<RunDescription> {
        let manifest = self.manifest(job)?;
        let offline = self.learner(job, frozen)?.spec().offline;
        Ok(RunDescription {
            method: job.method.clone(),
            stream: manifest.scenario.clone(),
            dataset: self.dataset_name(),
            backbone: frozen.backbone().name().to_owned(),
            tuning: self.suite.tuning_of(&job.method)?.name().to_owned(),
            preset: self.suite.preset.name().to_owned(),
            device: self.suite.device.kind.name().to_owned(),
            seed: job.seed,
            offline,
            kind: Some(if manifest.online {
                StreamKind::Online
            } else {
                StreamKind::Split
            }),
        })
    }

    fn dataset_name(&self) -> String {
        let mut name = self.dataset.name.clone();
        if let Some(n) = self.suite.train_per_class {
            name += &format!(", {n} per class");
        }
        if let Some(n) = self.suite.test_per_class {
            name += &format!(", {n} test per class");
        }
        name
    }

    /// Every setting of a run beside what describes it: the method's, and below `suite` when it is
    /// evaluated and what becomes of the data.
    pub fn record_settings(&self, job: &Job) -> Result<Value> {
        let suite = &self.suite;
        // All that the runner is told but the seed, which is no setting: rows are made over seeds.
        let mut of_suite = json!(self.settings(job)?);
        if let Some(settings) = of_suite.as_object_mut() {
            settings.remove("seed");
        }
        of_suite["preprocess"] = json!(suite.preprocess);
        for (name, value) in [
            ("train-per-class", json!(suite.train_per_class)),
            ("test-per-class", json!(suite.test_per_class)),
            ("holdout", json!(suite.holdout)),
        ] {
            if !value.is_null() {
                of_suite[name] = value;
            }
        }
        let of_method = suite.settings.get(&job.method).and_then(Value::as_object);
        let mut settings = of_method.cloned().unwrap_or_default();
        settings.insert("suite".to_owned(), of_suite);
        Ok(settings.into())
    }

    /// Everything that decides a run's result, and the hash of it.
    pub fn provenance(&self, job: &Job, frozen: &Frozen) -> Result<Provenance> {
        let parts = Provenance {
            manifest_hash: self.manifest(job)?.hash(),
            dataset_hash: self.dataset_hash.clone(),
            weights_hash: Some(frozen.backbone().identity()),
            code: CODE.clone(),
            ..Provenance::default()
        };
        Ok(parts.identified(&self.describe(job, frozen)?, &self.record_settings(job)?))
    }

    /// A run's settings as a file for its folder.
    pub fn config_text(&self, job: &Job, frozen: &Frozen) -> anyhow::Result<String> {
        #[derive(serde::Serialize)]
        struct Config {
            run: RunDescription,
            provenance: Provenance,
            settings: toml::Value,
        }
        let config = Config {
            run: self.describe(job, frozen)?,
            provenance: self.provenance(job, frozen)?,
            settings: toml::Value::try_from(without_nulls(&self.record_settings(job)?))?,
        };
        Ok(toml::to_string(&config)?)
    }
}

/// TOML has no null.
pub fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(table) => {
            let kept = table.iter().filter(|(_, v)| !v.is_null());
            kept.map(|(k, v)| (k.clone(), without_nulls(v)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        other => other.clone(),
    }
}

fn load_dataset(suite: &Suite) -> anyhow::Result<Dataset> {
    let options = LoadOptions {
        preprocess: suite.preprocess.parse()?,
        memory_budget: suite.memory_budget,
        spool_dir: suite.spool_dir.clone(),
    };
    let mut dataset = load(&suite.dataset, suite.data_dir.as_deref(), options)?;
    if let Some(fraction) = suite.holdout {
        dataset = dataset.holdout(
            Holdout::Fraction(fraction),
            Key::from_seed(0).child("holdout"),
        )?;
    }
    if let Some(n) = suite.train_per_class {
        dataset = dataset.take_per_class(n)?;
    }
    if let Some(n) = suite.test_per_class {
        dataset = dataset.take_test_per_class(n)?;
    }
    Ok(dataset)
}
