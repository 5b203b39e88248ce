#![cfg_attr(test, allow(clippy::unwrap_used))]

//! The two ends of every table: [`FineTune`], which does nothing against forgetting, and [`Joint`],
//! which forgets nothing because it keeps everything.
//!
//! Both minimise the cross-entropy over all classes seen, with one [`Recipe`]; what lies between their
//! accuracies is what a method can win.

use everburn_core::{
    Batch, Ctx, Event, Footprint, Images, Key, Learner, Output, Result, Source, Spec, Stage, State,
    Step, StepLog, TaskInfo,
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
}

impl FineTune {
    /// A learner that has seen nothing.
    ///
    /// # Errors
    /// If a setting is wrong.
    pub fn new(recipe: Recipe, frozen: Frozen, key: Key) -> Result<Self> {
        let trainee = Trainee::new(recipe, frozen, key)?;
        Ok(Self { trainee })
    }
}

impl Learner for FineTune {
    fn spec(&self) -> Spec {
        Spec::new("finetune")
    }

    fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage> {
        self.trainee.stages(task)
    }

    fn on(&mut self, event: &Event, _cx: &Ctx) -> Result<()> {
        self.trainee.on(event);
        Ok(())
    }

    fn observe(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog> {
        train("finetune", &mut self.trainee, batch, step, cx)
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
