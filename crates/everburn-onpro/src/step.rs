//! One step, as the official training loop makes it in the first task (`train_task0`) and in later ones
//! (`train_other_tasks`).

use burn::tensor::Tensor;
use everburn_core::{Batch, ClassId, Error, Key, Reservoir, Result, SeenClasses};
use everburn_nn::layers::unit_rows;
use everburn_nn::{Live, Network, cross_entropy, targets};
use rand::RngExt as _;

use crate::config::{Adaptive, Feedback, OnProConfig};
use crate::copies::{copied_labels, copies};
use crate::feedback::{Means, Mix, mix_images, mix_labels};
use crate::loss::{
    ClassAverage, equilibrium, instance_memory, instance_stream, mixed_cross_entropy, similarities,
};
use crate::prototypes::Prototypes;

/// What is to be done in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The stream is classified; of the memory only the prototypes are learnt from.
    First,
    /// The memory is classified.
    Later {
        /// Without feedback.
        plain: bool,
        /// Images of the memory.
        images: usize,
    },
}

/// One step on a batch of the stream and the memory as it was before. It makes its views itself, whatever the batch's.
pub(crate) fn update(
    config: &OnProConfig,
    net: &mut Network,
    memory: &Reservoir,
    prototypes: &mut Option<Prototypes>,
    turn: Turn,
    batch: &Batch,
    key: Key,
) -> Result<Option<f32>> {
    let mut pass = Pass {
        config,
        seen: net.seen(),
        live: net.live(),
        memory,
        key,
    };
    let loss = match turn {
        Turn::First => pass.first(batch, prototypes)?,
        Turn::Later { plain, images } => {
            let drawn = memory.draw_slots(images, key.child("draw"));
            let plan = match (config.feedback, &prototypes) {
                (Feedback::Adaptive(adaptive), Some(known)) if !plain => {
                    pass.plan(adaptive, &drawn, known)?
                }
                _ => drawn.iter().copied().map(Mix::plain).collect(),
            };
            pass.later(batch, &drawn, &plan, prototypes)?
        }
    };
    let tape = pass.live.into_tape();
    net.update(tape, loss)
}

/// The forward passes of a step.
struct Pass<'a> {
    config: &'a OnProConfig,
    seen: &'a SeenClasses,
    live: Live<'a>,
    memory: &'a Reservoir,
    key: Key,
}

/// Images with their copies and the second views of all, after the network: rows of length 1.
struct Compared {
    /// f̂, `[2·copies·images, dim]`.
    features: Tensor<2>,
    /// ẑ, `[2·copies·images, width]`.
    projections: Tensor<2>,
    images: usize,
}

impl Compared {
    /// ẑ of the images themselves in both views, `[images, width]` each.
    fn views(&self) -> [Tensor<2>; 2] {
        let half = self.projections.dims()[0] / 2;
        [0, half].map(|first| self.projections.clone().narrow(0, first, self.images))
    }
}

impl Pass<'_> {
    /// The loss of a step in the first task: L_CE of the stream's second views, L_INS of the stream, L_OPE of the stream
    /// and of the memory.
    fn first(&mut self, batch: &Batch, prototypes: &mut Option<Prototypes>) -> Result<Tensor<1>> {
        let images = self.live.pixels(&batch.images)?;
        let classes = self.numbers(&batch.labels)?;
        let mut terms = Vec::new();
        if self.config.instance || self.config.equilibrium {
            let parts = vec![(images.clone(), self.key.child("stream"))];
            for stream in self.compare(parts)? {
                terms.extend(self.stream_terms(&stream, &classes, 1.0));
            }
        }
        if !self.memory.is_empty() {
            let drawn = (self.memory).draw_slots(self.config.replay_batch, self.key.child("draw"));
            terms.extend(self.seen_term(&drawn, prototypes)?);
        }
        let views = self.live.augment(images, self.key.child("classified"));
        let logits = self.logits(views)?;
        let targets = targets(&classes, &logits.device());
        terms.push(cross_entropy(logits, targets));
        total(terms)
    }

    /// The loss of a later step: L_CE of the second views of what is replayed, L_INS of the stream and of that, L_OPE of
    /// the stream and of the draw from the memory.
    fn later(
        &mut self,
        batch: &Batch,
        drawn: &[usize],
        plan: &[Mix],
        prototypes: &mut Option<Prototypes>,
    ) -> Result<Tensor<1>> {
        let replayed = self.mixed(plan)?;
        let classes_of = |slot: fn(&Mix) -> usize| {
            let labels = plan.iter().map(|mix| self.memory.labels()[slot(mix)]);
            self.numbers(&labels.collect::<Vec<_>>())
        };
        let (first, second) = (classes_of(|mix| mix.first)?, classes_of(|mix| mix.second)?);
        let shares: Vec<f32> = plan.iter().map(|mix| mix.share).collect();
        let (config, mut terms) = (self.config, Vec::new());
        let factor = config.similarity_factor;
        if config.instance || config.equilibrium {
            let images = self.live.pixels(&batch.images)?;
            let classes = self.numbers(&batch.labels)?;
            let mut parts = vec![(images, self.key.child("stream"))];
            if config.instance {
                parts.push((replayed.clone(), self.key.child("memory")));
            }
            let mut compared = self.compare(parts)?.into_iter();
            if let Some(stream) = compared.next() {
                terms.extend(self.stream_terms(&stream, &classes, factor));
            }
            if let Some(memory) = compared.next() {
                let labels = mix_labels(&first, &second, &shares);
                let labels = copied_labels(&labels, self.seen.len(), config.copies);
                let similarity = self.similarity(&memory, "memory", factor);
                terms.push(instance_memory(
                    similarity,
                    &labels,
                    config.instance_temperature,
                ));
            }
        }
        let views = self.live.augment(replayed, self.key.child("classified"));
        let logits = self.logits(views)?;
        terms.push(mixed_cross_entropy(logits, &first, &second, &shares));
        terms.extend(self.seen_term(drawn, prototypes)?);
        total(terms)
    }

    /// L_INS and L_OPE of the stream.
    fn stream_terms(&self, stream: &Compared, classes: &[usize], factor: f64) -> Vec<Tensor<1>> {
        let (config, mut terms) = (self.config, Vec::new());
        if config.instance {
            let labels: Vec<f32> = classes.iter().map(|class| *class as f32).collect();
            let labels = copied_labels(&labels, self.seen.len(), config.copies);
            let similarity = self.similarity(stream, "stream", factor);
            terms.push(instance_stream(
                similarity,
                &labels,
                config.instance_temperature,
            ));
        }
        if config.equilibrium {
            let average = ClassAverage::new(classes, &stream.projections.device());
            let [first, second] = stream.views().map(|view| average.of(view));
            terms.push(equilibrium(first, second, config.prototype_temperature));
        }
        terms
    }

    /// L_OPE of a draw from the memory, whose prototypes are kept; none of it where nobody asks for them.
    fn seen_term(
        &mut self,
        drawn: &[usize],
        prototypes: &mut Option<Prototypes>,
    ) -> Result<Option<Tensor<1>>> {
        let config = self.config;
        if !config.equilibrium && config.feedback == Feedback::None {
            return Ok(None);
        }
        let (images, labels) = self.memory.select(drawn)?;
        let images = self.live.pixels(&images)?;
        let views = self.live.augment(images.clone(), self.key.child("seen"));
        let both = Tensor::cat(vec![images, views], 0);
        let features = self.live.features_of(both, self.key.child("seen"))?;
        let projections = unit_rows(self.live.project(features)?);
        let average = ClassAverage::new(&self.numbers(&labels)?, &projections.device());
        let view = |first| average.of(projections.clone().narrow(0, first, drawn.len()));
        let (first, second) = (view(0), view(drawn.len()));
        let means = (first.clone() + second.clone()) / 2.0;
        *prototypes = Some(Prototypes {
            classes: average.classes,
            means: means.without_autodiff(),
        });
        let loss = || equilibrium(first, second, config.prototype_temperature);
        Ok(config.equilibrium.then(loss))
    }

    /// What is replayed in place of a draw from the memory.
    fn plan(
        &self,
        adaptive: Adaptive,
        drawn: &[usize],
        prototypes: &Prototypes,
    ) -> Result<Vec<Mix>> {
        let rows = everburn_backend::to_vec(&prototypes.means)?;
        let means = Means {
            classes: &prototypes.classes,
            rows: &rows,
        };
        let classes = self.numbers(self.memory.labels())?;
        let mut rng = self.key.child("feedback").rng();
        Ok(adaptive.plan(drawn, &classes, means, &mut rng))
    }

    /// The images of a plan, `[images, 3, height, width]`.
    fn mixed(&self, plan: &[Mix]) -> Result<Tensor<4>> {
        let images = |slot: fn(&Mix) -> usize| {
            let slots: Vec<usize> = plan.iter().map(slot).collect();
            self.live.pixels(&self.memory.select(&slots)?.0)
        };
        let first = images(|mix| mix.first)?;
        if plan.iter().all(|mix| mix.share == 0.0) {
            return Ok(first);
        }
        let second = images(|mix| mix.second)?;
        let shares: Vec<f32> = plan.iter().map(|mix| mix.share).collect();
        Ok(mix_images(first, second, &shares))
    }

    /// Images with their copies and the second views of all, part after part, in one pass through the network.
    fn compare(&mut self, parts: Vec<(Tensor<4>, Key)>) -> Result<Vec<Compared>> {
        let count = self.config.copies_compared();
        let (mut all, mut sizes) = (Vec::new(), Vec::new());
        for (images, key) in parts {
            sizes.push(images.dims()[0]);
            let images = copies(images, count)?;
            let views = self.live.augment(images.clone(), key);
            all.extend([images, views]);
        }
        let features = (self.live).features_of(Tensor::cat(all, 0), self.key.child("compared"))?;
        let projections = unit_rows(self.live.project(features.clone())?);
        let features = unit_rows(features);
        let mut begin = 0;
        let part = |images: usize| {
            let (first, rows) = (begin, 2 * count * images);
            begin += rows;
            Compared {
                features: features.clone().narrow(0, first, rows),
                projections: projections.clone().narrow(0, first, rows),
                images,
            }
        };
        Ok(sizes.into_iter().map(part).collect())
    }

    /// Similarities with a part of the features that is drawn for each step.
    fn similarity(&self, of: &Compared, name: &str, factor: f64) -> Tensor<2> {
        let [dim, width] = [&of.features, &of.projections].map(|rows| rows.dims()[1]);
        let mut rng = self.key.child("offset").child(name).rng();
        let offset = match dim - width {
            0 => 0,
            more => rng.random_range(0..more),
        };
        similarities(of.projections.clone(), of.features.clone(), offset, factor)
    }

    fn logits(&mut self, images: Tensor<4>) -> Result<Tensor<2>> {
        let features = self
            .live
            .features_of(images, self.key.child("classified"))?;
        self.live.logits_of(features)
    }

    /// The numbers of classes in the order of their arrival, which are the head's columns.
    fn numbers(&self, labels: &[ClassId]) -> Result<Vec<usize>> {
        self.seen.indices(labels)
    }
}

/// The sum of the parts of a loss.
fn total(terms: Vec<Tensor<1>>) -> Result<Tensor<1>> {
    let sum = terms.into_iter().reduce(|sum, term| sum + term);
    sum.ok_or_else(|| Error::input("a loss", "no part", "at least one"))
}
