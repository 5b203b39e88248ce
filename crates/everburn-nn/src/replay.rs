use everburn_core::{
    Batch, ClassId, Ctx, Event, Footprint, Images, Key, Output, Reservoir, Result, Stage, State,
    Step, StepLog, TaskInfo,
};

use crate::{Classifier, Frozen, Network, Recipe, Trainee};

/// A network under training beside a memory of past images: what replay methods share. They differ in
/// the step that they make on a batch and the memory.
pub struct Replay {
    trainee: Trainee,
    memory: Reservoir,
}

impl Replay {
    /// A network that has seen nothing, and an empty memory.
    ///
    /// # Errors
    /// If a setting is wrong.
    pub fn new(recipe: Recipe, memory: Reservoir, frozen: Frozen, key: Key) -> Result<Self> {
        let trainee = Trainee::new(recipe, frozen, key)?;
        Ok(Self { trainee, memory })
    }

    /// With another classifier than the linear one; to be called before any class has been seen.
    #[must_use]
    pub fn with_classifier(mut self, classifier: Classifier) -> Self {
        self.trainee = self.trainee.with_classifier(classifier);
        self
    }

    /// As [`Network::with_projector`].
    ///
    /// # Errors
    /// If it has no width.
    pub fn with_projector(mut self, width: usize, key: Key) -> Result<Self> {
        self.trainee.net = self.trainee.net.with_projector(width, key)?;
        Ok(self)
    }

    /// As [`Trainee::with_lasting_optimiser`].
    #[must_use]
    pub fn with_lasting_optimiser(mut self) -> Self {
        self.trainee = self.trainee.with_lasting_optimiser();
        self
    }

    /// Gives classes their rows of the head before they come.
    pub fn see(&mut self, classes: &[ClassId]) {
        self.trainee.net.see(classes);
    }

    /// The network.
    pub fn net(&self) -> &Network {
        &self.trainee.net
    }

    /// What it remembers.
    pub fn memory(&self) -> &Reservoir {
        &self.memory
    }

    /// As [`Trainee::stages`].
    pub fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage> {
        self.trainee.stages(task)
    }

    /// As [`Trainee::on`].
    pub fn on(&mut self, event: &Event) {
        self.trainee.on(event);
    }

    /// Makes the recipe's steps on a batch, as [`Trainee::observe`], with the memory as it was before
    /// the batch; then shows the batch to the memory.
    ///
    /// # Errors
    /// As [`Trainee::observe`].
    pub fn observe(
        &mut self,
        method: &str,
        batch: &Batch,
        step: &Step,
        cx: &Ctx,
        mut update: impl FnMut(&mut Network, &Reservoir, Key) -> Result<Option<f32>>,
    ) -> Result<StepLog> {
        let memory = &self.memory;
        let update = |net: &mut Network, key| update(net, memory, key);
        let log = self.trainee.observe(method, batch, step, cx, update)?;
        // A sample enters the memory once, however many epochs it is seen: else the memory would be
        // a sample of presentations and hold copies.
        if step.epoch == 0 {
            let key = cx.key.child("reservoir");
            self.memory.insert(&batch.images, &batch.labels, key)?;
        }
        Ok(log)
    }

    /// Logits over the classes seen.
    ///
    /// # Errors
    /// If the images do not fit, or no class has been seen.
    pub fn predict(&self, images: &Images) -> Result<Output> {
        self.trainee.net.predict(images)
    }

    /// The network's footprint and the memory's.
    pub fn footprint(&self) -> Footprint {
        let mut footprint = self.trainee.net.footprint();
        footprint.add_exemplars("reservoir", self.memory.bytes(), self.memory.held());
        footprint
    }

    /// The complete state.
    ///
    /// # Errors
    /// If the device fails.
    pub fn save(&self) -> Result<State> {
        let mut state = self.trainee.save()?;
        state.nest("memory", self.memory.save()?);
        Ok(state)
    }

    /// Goes back to a saved state.
    ///
    /// # Errors
    /// If it does not fit; nothing is changed then.
    pub fn restore(&mut self, state: &State) -> Result<()> {
        let mut memory = self.memory.clone();
        memory.restore(&state.below("memory"))?;
        self.trainee.restore(state)?;
        self.memory = memory;
        Ok(())
    }
}
