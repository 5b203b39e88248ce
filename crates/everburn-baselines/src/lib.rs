#![cfg_attr(test, allow(clippy::unwrap_used))]

//! The two ends of every table: [`FineTune`], which does nothing against forgetting, and [`Joint`],
//! which forgets nothing because it keeps everything.
//!
//! Both minimise the cross-entropy over all classes seen, with one [`Recipe`]; what lies between their
//! accuracies is what a method can win. [`FineTune::local`] minimises it over the classes of the task alone, as
//! many methods without a memory do: the lower bound for those.

use everburn_core::{
    Batch, ClassId, Ctx, Error, Event, Footprint, Images, Key, Learner, Output, Result, Source,
    Spec, Stage, State, Step, StepLog, TaskInfo,
};
use everburn_nn::{Frozen, Method, Recipe, Settings, Trainee, from_value, to_value};

/// Fine-tuning, by name.
pub const FINETUNE: Method = Method {
    name: "finetune",
    about: "cross-entropy over all classes seen and nothing else: the lower bound",
    source: "the baseline of every paper",
    only: None,
    settings: Settings::of::<Recipe>(),
    preset: |setting| to_value(Recipe::preset(setting)),
    build: |settings, frozen, key| {
        let recipe = from_value("finetune", settings)?;
        Ok(Box::new(FineTune::new(recipe, frozen, key)?))
    },
};

/// Fine-tuning on a local loss, by name.
pub const FINETUNE_LOCAL: Method = Method {
    name: "finetune-local",
    about: "cross-entropy over the classes of the task and nothing else (the labels trick)",
    source: "Zeno et al., Task Agnostic Continual Learning Using Online Variational Bayes, 2018",
    only: None,
    settings: Settings::of::<Recipe>(),
    preset: |setting| to_value(Recipe::preset(setting)),
    build: |settings, frozen, key| {
        let recipe = from_value("finetune-local", settings)?;
        Ok(Box::new(FineTune::local(recipe, frozen, key)?))
    },
};

/// Joint training, by name.
pub const JOINT: Method = Method {
    name: "joint",
    about: "trained anew on everything so far: the ceiling (offline on a single-pass stream)",
    source: "the baseline of every paper",
    only: None,
    settings: Settings::of::<Recipe>(),
    preset: |setting| to_value(Recipe::preset(setting)),
    build: |settings, frozen, key| {
        let recipe = from_value("joint", settings)?;
        Ok(Box::new(Joint::new(recipe, frozen, key)?))
    },
};

/// Fine-tuning: each batch is trained on as it comes. The lower bound.
pub struct FineTune {
    trainee: Trainee,
    /// The classes of the task, if the loss is over them alone.
    task: Option<Vec<ClassId>>,
}

impl FineTune {
    /// A learner that has seen nothing.
    ///
    /// # Errors
    /// If a setting is wrong.
    pub fn new(recipe: Recipe, frozen: Frozen, key: Key) -> Result<Self> {
        Ok(Self {
            trainee: Trainee::new(recipe, frozen, key)?,
            task: None,
        })
    }

    /// The same with a loss over the classes of the task alone, so that a new class does not push the old ones
    /// away; on a stream without borders, over those of the batch.
    ///
    /// # Errors
    /// If a setting is wrong.
    pub fn local(recipe: Recipe, frozen: Frozen, key: Key) -> Result<Self> {
        Ok(Self {
            task: Some(Vec::new()),
            ..Self::new(recipe, frozen, key)?
        })
    }

    fn name(&self) -> &'static str {
        match self.task {
            None => FINETUNE.name,
            Some(_) => FINETUNE_LOCAL.name,
        }
    }
}

impl Learner for FineTune {
    fn spec(&self) -> Spec {
        Spec::new(self.name())
    }

    fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage> {
        self.trainee.stages(task)
    }

    fn on(&mut self, event: &Event, _cx: &Ctx) -> Result<()> {
        if let (Event::TaskBegin(info), Some(task)) = (event, &mut self.task) {
            task.clone_from(&info.classes);
        }
        self.trainee.on(event);
        Ok(())
    }

    fn observe(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog> {
        let (name, Self { trainee, task }) = (self.name(), self);
        let Some(task) = task else {
            return train(name, trainee, batch, step, cx);
        };
        let classes = match step.task {
            Some(_) => task,
            None => &batch.labels,
        };
        trainee.observe(name, batch, step, cx, |net, key| {
            let mut live = net.live();
            let loss = live.local_loss(&batch.images, &batch.labels, classes, batch.view, key)?;
            let tape = live.into_tape();
            net.update(tape, loss)
        })
    }

    fn predict(&self, images: &Images) -> Result<Output> {
        self.trainee.net.predict(images)
    }

    fn footprint(&self) -> Footprint {
        self.trainee.net.footprint()
    }

    fn save(&self) -> Result<State> {
        let mut state = self.trainee.save()?;
        state.put_value("task", &self.task)?;
        Ok(state)
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        let task: Option<Vec<ClassId>> = state.value("task")?;
        if task.is_some() != self.task.is_some() {
            let found = if task.is_some() {
                "a local loss"
            } else {
                "a loss over all classes"
            };
            return Err(Error::state("task", found, "the other"));
        }
        self.trainee.restore(state)?;
        self.task = task;
        Ok(())
    }
}

/// Joint training: for every task a new network is trained on all samples so far, for as many epochs
/// as fine-tuning has. The ceiling; its memory is the whole stream, which the runner holds for it.
///
/// After the last task it has made as many steps as fine-tuning over all tasks. On a single-pass
/// stream it learns after the end, so that only its last accuracy means anything there; on others a
/// runner may let it learn once, too (`everburn_run::Settings::offline_once`).
pub struct Joint {
    trainee: Trainee,
    frozen: Frozen,
}

impl Joint {
    /// A learner that has seen nothing.
    ///
    /// # Errors
    /// If a setting is wrong.
    pub fn new(recipe: Recipe, frozen: Frozen, key: Key) -> Result<Self> {
        let trainee = Trainee::new(recipe, frozen.clone(), key)?;
        Ok(Self { trainee, frozen })
    }
}

impl Learner for Joint {
    fn spec(&self) -> Spec {
        Spec {
            offline: true,
            ..Spec::new("joint")
        }
    }

    fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage> {
        self.trainee.recipe().stages(task, Source::AllSeen)
    }

    fn on(&mut self, event: &Event, cx: &Ctx) -> Result<()> {
        if let Event::StageBegin(_) = event {
            let seen = self.trainee.net.seen().as_slice().to_vec();
            let recipe = self.trainee.recipe().clone();
            self.trainee = Trainee::new(recipe, self.frozen.clone(), cx.key.child("network"))?;
            self.trainee.net.see(&seen);
        }
        self.trainee.on(event);
        Ok(())
    }

    fn observe(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog> {
        train("joint", &mut self.trainee, batch, step, cx)
    }

    fn predict(&self, images: &Images) -> Result<Output> {
        self.trainee.net.predict(images)
    }

    fn footprint(&self) -> Footprint {
        self.trainee.net.footprint()
    }

    fn save(&self) -> Result<State> {
        self.trainee.save()
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        self.trainee.restore(state)
    }
}

/// Steps on the cross-entropy over all classes seen.
fn train(
    method: &str,
    trainee: &mut Trainee,
    batch: &Batch,
    step: &Step,
    cx: &Ctx,
) -> Result<StepLog> {
    trainee.observe(method, batch, step, cx, |net, key| {
        net.step(&batch.images, &batch.labels, batch.view, key)
    })
}

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
