#![cfg_attr(test, allow(clippy::unwrap_used))]

//! OnPro: Wei, Ye, Huang, Zhang, Shan, "Online Prototype Learning for Online Continual Learning" (ICCV 2023), after the
//! official repository weilllllls/OnPro at a92f8ae.
//!
//! A learner that sees each sample once takes shortcuts, features that tell apart the classes of the moment and nothing
//! else, and forgets when others come. Three things are to give it features that last:
//!
//! 1. **Online prototype equilibrium.** The mean of a class's projections within a batch is its prototype. Prototypes of
//!    two views attract each other, those of different classes repel each other: on the stream for new classes, on the
//!    memory for all.
//! 2. **Adaptive prototypical feedback.** Classes whose prototypes are close are confused, so they are replayed more, mixed
//!    with each other.
//! 3. **Instance-wise contrast** of rotated copies, from OCM (Guo, Liu, Zhao, ICML 2022).
//!
//! The memory is a reservoir; the classifier learns from it alone after the first task.

mod config;
mod copies;
mod feedback;
mod loss;
mod prototypes;
mod step;

use everburn_core::{
    Batch, Borders, ClassId, Ctx, Error, Event, Footprint, Images, Key, Kind, Learner, Output,
    Reservoir, Result, SeenClasses, Spec, Stage, State, Step, StepLog, TaskId, TaskInfo,
};
use everburn_nn::{Config, Frozen, Method, Replay, Settings, Tuning, from_value, to_value};

pub use config::{Adaptive, Feedback, OnProConfig, TaskBorders};
pub use copies::{copied_labels, copies};
pub use feedback::{Draws, Means, Mix, mix_images, mix_labels, pair_counts};
pub use loss::{
    ClassAverage, equilibrium, instance_memory, instance_stream, mixed_cross_entropy, similarities,
};

use prototypes::Prototypes;
use step::{Turn, update};

/// OnPro, by name.
pub const ONPRO: Method = Method {
    name: "onpro",
    about: "prototypes in equilibrium, replay of what is confused, sixteen copies of each image",
    source: "Wei et al., Online Prototype Learning for Online Continual Learning, ICCV 2023",
    only: Some(Tuning::Full),
    settings: Settings::of::<OnProConfig>(),
    preset: |setting| to_value(OnProConfig::preset(setting)),
    build: |settings, frozen, key| {
        let config = from_value("onpro", settings)?;
        Ok(Box::new(OnPro::new(config, frozen, key)?))
    },
};

/// OnPro at a size for two cores, by name.
pub const ONPRO_SMALL: Method = Method {
    name: "onpro-small",
    about: "OnPro with four copies of each image and a small batch of the memory",
    source: "Wei et al., ICCV 2023, in a size for two cores",
    only: Some(Tuning::Full),
    settings: Settings::of::<OnProConfig>(),
    preset: |setting| to_value(OnProConfig::small_preset(setting)),
    build: |settings, frozen, key| {
        let config = from_value("onpro-small", settings)?;
        Ok(Box::new(OnPro::small(config, frozen, key)?))
    },
};

/// OnPro.
pub struct OnPro {
    name: &'static str,
    config: OnProConfig,
    /// The network with its projector, and the memory.
    replay: Replay,
    /// The classes of which a sample has come.
    met: SeenClasses,
    /// The first task; none before the first sample, or where the stream has no borders.
    first_task: Option<TaskId>,
    /// The prototypes of the last step's draw from the memory.
    prototypes: Option<Prototypes>,
}

impl OnPro {
    /// A learner that has seen nothing.
    ///
    /// # Errors
    /// If a setting is wrong or does not fit the backbone.
    pub fn new(config: OnProConfig, frozen: Frozen, key: Key) -> Result<Self> {
        config.validate()?;
        let (dim, input) = (frozen.backbone().dim(), frozen.backbone().input());
        if config.projection > dim {
            let expected = format!("at most {dim}, the width of the backbone's features");
            let found = config.projection;
            return Err(Error::config("onpro.projection", found, expected));
        }
        copies::check_size(input.height, input.width, config.copies_compared())?;
        let memory = Reservoir::new(config.buffer, config.reservoir);
        let mut replay = Replay::new(config.recipe.clone(), memory, frozen, key)?
            .with_projector(config.projection, key.child("projector"))?
            .with_lasting_optimiser();
        if let Some(classes) = config.classes {
            let all: Vec<ClassId> = (0..).map(ClassId).take(classes).collect();
            replay.see(&all);
        }
        Ok(Self {
            name: ONPRO.name,
            config,
            replay,
            met: SeenClasses::default(),
            first_task: None,
            prototypes: None,
        })
    }

    /// [`new`](Self::new) under the name of the small size; what it does, its settings say.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn small(config: OnProConfig, frozen: Frozen, key: Key) -> Result<Self> {
        Ok(Self {
            name: ONPRO_SMALL.name,
            ..Self::new(config, frozen, key)?
        })
    }

    /// What it remembers.
    pub fn memory(&self) -> &Reservoir {
        self.replay.memory()
    }

    /// Checks that classes have their place in a head of a size that was set.
    fn check_classes(&self, labels: &[ClassId]) -> Result<()> {
        let Some(classes) = self.config.classes else {
            return Ok(());
        };
        match labels.iter().find(|label| label.0 as usize >= classes) {
            None => Ok(()),
            Some(label) => {
                let expected = format!("a class below {classes}, the setting `classes`");
                Err(Error::input("a label", label, expected))
            }
        }
    }

    /// The classes met by the end of a batch, and which task was the first.
    fn met_with(&self, labels: &[ClassId], step: &Step) -> (SeenClasses, Option<TaskId>) {
        let mut met = self.met.clone();
        for label in labels {
            met.insert(*label);
        }
        let is_begin = self.met.is_empty();
        (met, if is_begin { step.task } else { self.first_task })
    }

    /// What is to be done in a step, with so many classes met and this task as the first.
    fn turn(&self, step: &Step, met: usize, first_task: Option<TaskId>) -> Turn {
        let by_task = self.config.borders == TaskBorders::Released;
        let is_first_task = by_task && step.task == first_task;
        if is_first_task || self.memory().is_empty() {
            return Turn::First;
        }
        Turn::Later {
            // The released code's count of batches begins with each task.
            plain: by_task && step.index == 0,
            images: (self.config.replay_batch)
                .min(self.config.replay_per_class.saturating_mul(met)),
        }
    }
}

impl Learner for OnPro {
    fn spec(&self) -> Spec {
        match self.config.borders {
            TaskBorders::Released => Spec {
                borders: Borders::Needed,
                without_borders: Some(format!("{}.borders = \"none\"", self.name)),
                ..Spec::new(self.name)
            },
            TaskBorders::None => Spec::new(self.name),
        }
    }

    fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage> {
        self.replay.stages(task)
    }

    fn on(&mut self, event: &Event, _cx: &Ctx) -> Result<()> {
        if let Event::TaskBegin(task) = event {
            self.check_classes(&task.classes)?;
        }
        self.replay.on(event);
        Ok(())
    }

    fn observe(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog> {
        if step.task.is_none() && self.config.borders == TaskBorders::Released {
            let what = format!("{} without task borders", self.name);
            let why = "the first task is learnt otherwise; `borders = \"none\"` is without them";
            return Err(Error::unsupported(what, why));
        }
        self.check_classes(&batch.labels)?;
        let (met, first_task) = self.met_with(&batch.labels, step);
        let turn = self.turn(step, met.len(), first_task);
        let (config, prototypes) = (&self.config, &mut self.prototypes);
        let log = self
            .replay
            .observe(self.name, batch, step, cx, |net, memory, key| {
                update(config, net, memory, prototypes, turn, batch, key)
            })?;
        (self.met, self.first_task) = (met, first_task);
        Ok(log)
    }

    fn predict(&self, images: &Images) -> Result<Output> {
        self.replay.predict(images)
    }

    fn footprint(&self) -> Footprint {
        let mut footprint = self.replay.footprint();
        let bytes = self.prototypes.as_ref().map_or(0, Prototypes::bytes);
        footprint.add(Kind::Statistics, "prototypes", bytes);
        footprint
    }

    fn save(&self) -> Result<State> {
        let mut state = self.replay.save()?;
        state.put_value("met", &self.met)?;
        state.put_value("first_task", self.first_task)?;
        Prototypes::save(self.prototypes.as_ref(), &mut state)?;
        Ok(state)
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        let met: SeenClasses = state.value("met")?;
        let first_task = state.value("first_task")?;
        let columns: SeenClasses = state.value("seen")?;
        let (width, device) = (self.config.projection, self.replay.net().device());
        let prototypes = Prototypes::restored(state, width, columns.len(), device)?;
        let mut all = met.as_slice().iter();
        if let Some(class) = all.find(|class| columns.index(**class).is_none()) {
            return Err(Error::state("met", class, "a class of the head"));
        }
        let mut numbered = columns.as_slice().iter().zip(0..);
        if let Some(classes) = self.config.classes
            && (columns.len() != classes || !numbered.all(|(class, number)| class.0 == number))
        {
            let expected = format!("all classes below {classes} in their order");
            return Err(Error::state(
                "seen",
                format!("{:?}", columns.as_slice()),
                expected,
            ));
        }
        self.replay.restore(state)?;
        (self.met, self.first_task, self.prototypes) = (met, first_task, prototypes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everburn_backend::DeviceChoice;
    use everburn_core::{ImageShape, View};
    use everburn_nn::{Backbone, Normalise};

    /// Batches of two images of two classes.
    fn batch(classes: [u32; 2]) -> Batch {
        let shape = ImageShape::new(8, 8, 3);
        let images = Images::new(shape, vec![90; 2 * shape.bytes()]).unwrap();
        Batch::new(images, classes.map(ClassId).to_vec(), View::Train).unwrap()
    }

    fn step(task: Option<u32>, index: usize) -> Step {
        Step {
            task: task.map(TaskId),
            stage: 0,
            epoch: 0,
            epochs: 1,
            index,
            steps: 9,
        }
    }

    #[test]
    fn turns_and_images_follow_tasks_and_classes() {
        let device = DeviceChoice::CPU.open().unwrap();
        let key = Key::from_seed(1);
        let backbone = Backbone::resnet18(2, 8, Normalise::HALF, key, &device).unwrap();
        let config = OnProConfig {
            replay_batch: 30,
            projection: 8,
            instance: false,
            ..OnProConfig::cifar10()
        };
        let later = |plain, images| Turn::Later { plain, images };
        // The first task need not be number 0, which may have been empty.
        for (borders, turns) in [
            (
                TaskBorders::Released,
                [
                    Turn::First,
                    Turn::First,
                    later(true, 28),
                    later(false, 28),
                    later(true, 30),
                ],
            ),
            (
                TaskBorders::None,
                [
                    Turn::First,
                    later(false, 14),
                    later(false, 28),
                    later(false, 28),
                    later(false, 30),
                ],
            ),
        ] {
            let config = OnProConfig {
                borders,
                ..config.clone()
            };
            let frozen = Frozen::new(backbone.clone(), &device);
            let mut learner = OnPro::new(config, frozen, key).unwrap();
            let steps = [
                (1, 0, [3, 9]),
                (1, 1, [3, 9]),
                (2, 0, [1, 5]),
                (2, 1, [1, 5]),
                (4, 0, [7, 7]),
            ];
            for ((task, index, classes), expected) in steps.into_iter().zip(turns) {
                let step = step(Some(task), index);
                let (met, first_task) = learner.met_with(&batch(classes).labels, &step);
                let turn = learner.turn(&step, met.len(), first_task);
                assert_eq!(turn, expected, "{borders:?}, {step:?}");
                let cx = Ctx::new(key.at(u64::from(task)).at(index as u64));
                learner.observe(&batch(classes), &step, &cx).unwrap();
            }
        }
    }
}

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
