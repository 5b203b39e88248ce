use std::fmt;

use everburn_backend::DeviceChoice;
use everburn_core::{Error, ImageShape, Key, Learner, Result};
use everburn_nn::{Method, Preset, Setting, Tuning};
use everburn_run::{Runner, Settings};
use serde_json::{Map, Value, json};

use crate::lab::{Flow, Lab, Toy};
use crate::{Violation, test_devices};

/// Builds a learner for a device and tuning, from a key, with changes of its settings.
type Build = Box<dyn Fn(&Lab, Key, &Map<String, Value>) -> Result<Box<dyn Learner>>>;

/// The learner under test, and how to build it.
pub struct Subject {
    name: String,
    build: Build,
    changes: Map<String, Value>,
    shape: ImageShape,
    tunings: Vec<Tuning>,
    cpu_only: bool,
}

const TOY_SHAPE: ImageShape = ImageShape::new(8, 8, 3);

/// What every learner gets unless its suite says otherwise: few samples, an optimiser with a state, and
/// several epochs and updates — on the CPU, where a step is cheap.
fn toy_changes(lab: &Lab) -> Vec<(&'static str, Value)> {
    let (epochs, batch) = if lab.is_exact() { (2, 4) } else { (1, 6) };
    let mut changes = vec![
        ("epochs", json!(epochs)),
        ("batch", json!(batch)),
        ("online_batch", json!(3)),
        ("online_updates", json!(epochs)),
        // The small ViT has no more.
        ("pet.blocks", json!(2)),
    ];
    if lab.tuning() == Tuning::Full {
        changes.push(("training.rule", json!({ "rule": "sgd", "momentum": 0.9 })));
        changes.push(("training.head_rate", json!(0.01)));
        changes.push(("training.backbone_rate", json!(0.01)));
    }
    changes
}

/// Applies the changes whose key the settings have, themselves or in their recipe.
fn at_toy_size(settings: Value, lab: &Lab, method: &Method) -> Result<Value> {
    let within = |settings: &Value, key: &str| {
        let path = key
            .split('.')
            .try_fold(settings, |table, part| table.get(part));
        path.is_some()
    };
    let mut wanted = Map::new();
    for (key, value) in toy_changes(lab) {
        for key in [key.to_owned(), format!("recipe.{key}")] {
            if within(&settings, &key) {
                wanted.insert(key, value.clone());
            }
        }
    }
    method.change(settings, &wanted)
}

impl Subject {
    /// A registered method, at toy size: from its `cpu` preset with few samples in a batch. With the
    /// backbone frozen it gets a small ViT, tuned as a whole a small ResNet from scratch.
    pub fn of(method: Method) -> Self {
        let build = move |lab: &Lab, key: Key, changes: &Map<String, Value>| {
            let setting = Setting {
                preset: Preset::Cpu,
                tuning: lab.tuning(),
                from_scratch: lab.tuning() == Tuning::Full,
            };
            let settings = method.settings(&setting, &Map::new())?;
            let settings = at_toy_size(settings, lab, &method)?;
            method.build(method.change(settings, changes)?, lab.frozen()?, key)
        };
        let tunings = match method.only {
            None => vec![Tuning::Frozen, Tuning::Full],
            Some(tuning) => vec![tuning],
        };
        Self {
            name: method.name.to_owned(),
            build: Box::new(build),
            changes: Map::new(),
            shape: TOY_SHAPE,
            tunings,
            cpu_only: false,
        }
    }

    /// Changes a setting of a registered method, by its path: `recipe.epochs`. A memory must be made
    /// so small that the toy streams fill it.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.changes.insert(key.to_owned(), value.into());
        self
    }

    /// A learner that `build` makes for a device, tuning and key. It is shown images of 8×8 pixels
    /// in three channels.
    pub fn new(
        name: impl Into<String>,
        build: impl Fn(&Lab, Key) -> Result<Box<dyn Learner>> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            build: Box::new(move |lab, key, _| build(lab, key)),
            changes: Map::new(),
            shape: TOY_SHAPE,
            tunings: vec![Tuning::Frozen, Tuning::Full],
            cpu_only: false,
        }
    }

    /// For a learner that does not look at the lab's tuning, or knows only one.
    #[must_use]
    pub fn only(mut self, tuning: Tuning) -> Self {
        self.tunings = vec![tuning];
        self
    }

    /// For a learner that uses no device, or a second variant of one that has been on all.
    #[must_use]
    pub fn on_cpu_only(mut self) -> Self {
        self.cpu_only = true;
        self
    }

    /// The subject on each device and with each tuning.
    ///
    /// # Errors
    /// If a device does not open.
    pub fn cases(&self) -> Result<Vec<Case<'_>>> {
        let devices = if self.cpu_only {
            vec![(DeviceChoice::CPU, DeviceChoice::CPU.open()?)]
        } else {
            test_devices()?
        };
        let mut cases = Vec::new();
        for (choice, device) in devices {
            for tuning in &self.tunings {
                let lab = Lab::new(choice, device.clone(), *tuning, self.shape);
                cases.push(Case { subject: self, lab });
            }
        }
        Ok(cases)
    }
}

/// A subject on one device with one tuning.
pub struct Case<'a> {
    subject: &'a Subject,
    lab: Lab,
}

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (subject, lab) = (self.subject, &self.lab);
        write!(f, "{} on {}", subject.name, lab.choice())?;
        if subject.tunings.len() > 1 {
            write!(f, ", {}", lab.tuning().name())?;
        }
        Ok(())
    }
}

/// The seed of what has no reason to take another.
pub(crate) const SEED: u64 = 7;

impl Case<'_> {
    /// Whether results repeat to the byte on this device.
    pub fn is_exact(&self) -> bool {
        self.lab.is_exact()
    }

    /// The kinds of stream on which a rule is tried: all on the CPU. On other devices the kernels are
    /// under test, not the method's logic, which is the same: one kind, on which any learner runs.
    pub(crate) fn flows(&self) -> &'static [Flow] {
        if self.is_exact() {
            &Flow::ALL
        } else {
            &[Flow::Tasks]
        }
    }

    /// The images that the learner is shown.
    pub fn shape(&self) -> ImageShape {
        self.subject.shape
    }

    /// A learner that has seen nothing, whose randomness begins at a seed.
    ///
    /// # Errors
    /// If it cannot be built.
    pub fn learner(&self, seed: u64) -> Result<Box<dyn Learner>> {
        let key = Key::from_seed(seed).child("learner");
        (self.subject.build)(&self.lab, key, &self.subject.changes)
    }

    /// A toy stream for this learner's images.
    pub(crate) fn toy(&self, flow: Flow, tasks: Tasks) -> Result<Toy> {
        Toy::new(self.shape(), flow, tasks)
    }

    /// A runner of a learner on a toy stream, or `None` if the learner is refused there.
    pub(crate) fn runner<'t>(
        &self,
        toy: &'t Toy,
        seed: u64,
        learner: Box<dyn Learner>,
    ) -> Result<Option<Runner<'t>>> {
        match Runner::new(toy.material(), settings(seed), learner) {
            Ok(runner) => Ok(Some(runner)),
            Err(Error::Unsupported { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The learner after the first of the flows on which it is not refused, and the stream it saw.
    pub(crate) fn taught(&self, tasks: Tasks) -> Result<(Box<dyn Learner>, Toy), Violation> {
        for &flow in self.flows() {
            let toy = self.toy(flow, tasks)?;
            if let Some(mut runner) = self.runner(&toy, SEED, self.learner(SEED)?)? {
                while runner.advance()? {}
                return Ok((runner.into_learner(), toy));
            }
        }
        Err(Violation(
            "it is refused on every kind of stream".to_owned(),
        ))
    }
}

/// The tasks of a toy stream: classes, and how many images of each.
pub(crate) type Tasks<'a> = &'a [&'a [(u32, usize)]];

/// Three tasks of two classes. Toy batches of 3, 4 and 6 leave a rest, but never of one image, which is
/// another rule's matter.
pub(crate) const USUAL: Tasks<'static> =
    &[&[(26, 4), (2, 4)], &[(18, 6), (6, 5)], &[(9, 3), (11, 3)]];

/// Few evaluations, and fewer test images in a prediction than there are.
pub(crate) fn settings(seed: u64) -> Settings {
    Settings {
        eval: everburn_stream::EvalPoints::Count(3),
        eval_batch: 5,
        ..Settings::new(seed)
    }
}
