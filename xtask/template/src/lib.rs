//! MyMethod: Authors, "Title" (Venue Year).
//!
//! What it does, in a paragraph. So far it is fine-tuning: each batch is trained on as it comes.

use everburn_core::{
    Batch, Ctx, Event, Footprint, Images, Key, Learner, Output, Result, Spec, Stage, State, Step,
    StepLog, TaskInfo,
};
use everburn_nn::{
    Config, Frozen, Method, Network, Recipe, Setting, Settings, Trainee, from_value, to_value,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// MyMethod, by name.
pub const METHOD: Method = Method {
    name: "my-method",
    about: "what it does, in one line",
    source: "Authors, Title, Venue Year",
    only: None,
    settings: Settings::of::<MyMethodConfig>(),
    preset: |setting| to_value(MyMethodConfig::preset(setting)),
    build: |settings, frozen, key| {
        let config = from_value("my-method", settings)?;
        Ok(Box::new(MyMethod::new(config, frozen, key)?))
    },
};

/// The hyper-parameters of MyMethod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MyMethodConfig {
    /// How the network is trained.
    pub recipe: Recipe,
}

impl MyMethodConfig {
    /// What a preset says.
    pub fn preset(setting: &Setting) -> Self {
        let recipe = Recipe::preset(setting);
        Self { recipe }
    }
}

impl Config for MyMethodConfig {
    fn validate(&self) -> Result<()> {
        self.recipe.validate()
    }
}

/// MyMethod.
pub struct MyMethod {
    trainee: Trainee,
}

impl MyMethod {
    /// A learner that has seen nothing.
    ///
    /// # Errors
    /// If a setting is wrong.
    pub fn new(config: MyMethodConfig, frozen: Frozen, key: Key) -> Result<Self> {
        config.validate()?;
        let trainee = Trainee::new(config.recipe, frozen, key)?;
        Ok(Self { trainee })
    }

    /// One step of the optimiser; returns the loss.
    fn update(net: &mut Network, batch: &Batch, key: Key) -> Result<Option<f32>> {
        let mut live = net.live();
        let loss = live.loss(&batch.images, &batch.labels, batch.view, key)?;
        let tape = live.into_tape();
        net.update(tape, loss)
    }
}

impl Learner for MyMethod {
    fn spec(&self) -> Spec {
        Spec::new(METHOD.name)
    }

    fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage> {
        self.trainee.stages(task)
    }

    fn on(&mut self, event: &Event, _cx: &Ctx) -> Result<()> {
        self.trainee.on(event);
        Ok(())
    }

    fn observe(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog> {
        let update = |net: &mut Network, key| Self::update(net, batch, key);
        self.trainee.observe(METHOD.name, batch, step, cx, update)
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

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
