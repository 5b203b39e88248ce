mod draw;

use std::collections::BTreeMap;

use draw::collect_samples;
use everburn_core::{Checker, ClassId, Error, Result};
use serde::{Deserialize, Serialize};

use crate::rng::TorchRandom;
use crate::scenario::count_classes;
use crate::{Manifest, ManifestTask, Scenario};

pub use draw::SiBlurryParts;

/// Si-Blurry, the stochastic incremental blurry stream (Moon et al., ICCV 2023, arXiv 2308.09303),
/// index for index as the official `OnlineSampler` of moonjunyyy/Si-Blurry draws it.
///
/// Disjoint classes come in one task only; of the blurry ones, some samples are moved to other
/// tasks. How many classes and samples each task gets is drawn. Every sample is seen once, and
/// nobody tells the learner of a border, unless [`borders`](Self::borders) asks for it.
///
/// Classes that do not divide by the tasks are dropped from the stream, as in the official sampler.
///
/// ```
/// use everburn_core::ClassId;
/// use everburn_stream::{Scenario, SiBlurry};
/// let labels: Vec<ClassId> = (0..200).map(|i| ClassId(i % 10)).collect();
/// let scenario = SiBlurry { tasks: 3, blurry_percent: 20, ..SiBlurry::default() };
/// let manifest = scenario.compile(&labels, 10, 1)?;
/// assert_eq!(manifest.official_hash(), "49f987bfd1984d79");
/// # Ok::<(), everburn_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SiBlurry {
    /// Tasks, T. Official scripts: 5.
    pub tasks: usize,
    /// How many of a hundred classes are disjoint, N. Official scripts: 50.
    pub disjoint_percent: u32,
    /// How many of a hundred samples of blurry classes may be moved, M. Official scripts: 10.
    pub blurry_percent: u32,
    /// How classes and samples are divided. Official scripts: stochastic.
    pub mode: SiBlurryMode,
    /// Whether the learner is told of task borders: the scenario `si-blurry+borders`, for methods
    /// that cannot do without. The samples are the same.
    pub borders: bool,
}

/// How Si-Blurry divides classes and moved samples among the tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SiBlurryMode {
    /// At random cuts, so that tasks differ in size: what the official trainer runs.
    #[default]
    Stochastic,
    /// Evenly. The official code has this mode, but never reaches it.
    Static,
}

impl Default for SiBlurry {
    fn default() -> Self {
        Self {
            tasks: 5,
            disjoint_percent: 50,
            blurry_percent: 10,
            mode: SiBlurryMode::Stochastic,
            borders: false,
        }
    }
}

impl SiBlurry {
    /// Checks the settings.
    ///
    /// # Errors
    /// If there is no task or a percentage is above 100.
    pub fn check(&self) -> Result<()> {
        let check = Checker::new("si-blurry");
        let percent = "a percentage from 0 to 100";
        check.positive("tasks", self.tasks)?;
        check.within("disjoint_percent", self.disjoint_percent, 0..=100, percent)?;
        check.within("blurry_percent", self.blurry_percent, 0..=100, percent)
    }

    /// The stream together with what was drawn on the way to it; [`compile`](Scenario::compile) is
    /// this without the latter.
    ///
    /// With no disjoint or no blurry class at all, the official static mode fails; here it has
    /// empty lists.
    ///
    /// # Errors
    /// If a setting is wrong, a label is not below `num_classes`, or there are fewer classes than
    /// tasks, so that all of them would be dropped.
    pub fn draw(&self, labels: &[ClassId], num_classes: usize, seed: u64) -> Result<SiBlurryParts> {
        self.check()?;
        count_classes(labels, num_classes)?;
        if num_classes < self.tasks {
            let expected = format!("at least {}, for one in each task", self.tasks);
            return Err(Error::input(
                "classes of the data set",
                num_classes,
                expected,
            ));
        }
        let mut random = TorchRandom::new(seed);
        let mut parts = self.draw_classes(num_classes, &mut random)?;
        let (disjoint, mut blurry) = collect_samples(&parts, labels);
        match self.mode {
            SiBlurryMode::Stochastic => self.move_by_quota(&mut parts, &mut blurry, &mut random)?,
            SiBlurryMode::Static => self.move_evenly(&mut parts, &mut blurry, &mut random)?,
        }
        parts.indices.clear();
        for (mut indices, mut blurry) in disjoint.into_iter().zip(blurry) {
            indices.append(&mut blurry);
            random.shuffle(&mut indices)?;
            parts.indices.push(indices);
        }
        Ok(parts)
    }
}

impl Scenario for SiBlurry {
    fn name(&self) -> String {
        let default = Self::default();
        let mut options = Vec::new();
        if self.disjoint_percent != default.disjoint_percent {
            options.push(format!("n={}", self.disjoint_percent));
        }
        if self.blurry_percent != default.blurry_percent {
            options.push(format!("m={}", self.blurry_percent));
        }
        if self.tasks != default.tasks {
            options.push(format!("t={}", self.tasks));
        }
        if self.mode == SiBlurryMode::Static {
            options.push("mode=static".to_owned());
        }
        let base = if self.borders {
            "si-blurry+borders"
        } else {
            "si-blurry"
        };
        if options.is_empty() {
            return base.to_owned();
        }
        format!("{base}:{}", options.join(","))
    }

    fn settings(&self) -> BTreeMap<String, String> {
        let mode = match self.mode {
            SiBlurryMode::Stochastic => "stochastic",
            SiBlurryMode::Static => "static",
        };
        let settings = [
            ("tasks", self.tasks.to_string()),
            ("disjoint_percent", self.disjoint_percent.to_string()),
            ("blurry_percent", self.blurry_percent.to_string()),
            ("mode", mode.to_owned()),
        ];
        let owned = |(key, value): (&str, String)| (key.to_owned(), value);
        settings.into_iter().map(owned).collect()
    }

    fn compile(&self, labels: &[ClassId], num_classes: usize, seed: u64) -> Result<Manifest> {
        let parts = self.draw(labels, num_classes, seed)?;
        let mut places = Places::new(&parts.class_order);
        let tasks = parts.indices.into_iter().map(|indices| ManifestTask {
            classes: places.classes_of(&indices, labels),
            indices,
        });
        let tasks = tasks.collect();
        Ok(Manifest {
            scenario: self.name(),
            settings: self.settings(),
            seed,
            num_samples: labels.len(),
            num_classes,
            tasks,
            class_order: parts.class_order,
            online: true,
            borders: self.borders,
        })
    }
}

/// Finds the classes of tasks, in the class order.
struct Places<'a> {
    class_order: &'a [ClassId],
    /// The place of each class in the order.
    place: Vec<usize>,
    /// The number of the last task in which a class was met.
    met: Vec<usize>,
    task: usize,
}

impl<'a> Places<'a> {
    fn new(class_order: &'a [ClassId]) -> Self {
        let mut place = vec![0; class_order.len()];
        for (number, class) in class_order.iter().enumerate() {
            if let Some(place) = place.get_mut(class.0 as usize) {
                *place = number;
            }
        }
        Self {
            class_order,
            place,
            met: vec![0; class_order.len()],
            task: 0,
        }
    }

    /// The classes of the next task's samples. Takes time in proportion to the samples, not to the
    /// classes that there are.
    fn classes_of(&mut self, indices: &[u32], labels: &[ClassId]) -> Vec<ClassId> {
        self.task += 1;
        let mut places = Vec::new();
        for class in indices
            .iter()
            .filter_map(|index| labels.get(*index as usize))
        {
            let class = class.0 as usize;
            if let (Some(met), Some(place)) = (self.met.get_mut(class), self.place.get(class))
                && *met != self.task
            {
                *met = self.task;
                places.push(*place);
            }
        }
        places.sort_unstable();
        let class = |place| self.class_order.get(place).copied();
        places.into_iter().filter_map(class).collect()
    }
}
