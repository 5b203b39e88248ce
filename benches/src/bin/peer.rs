//! Our side of `peers/compare.py`: reads lines `BACKBONE WORK BATCH STEPS`, answers each with the
//! seconds of every step.
//!
//! Work: `infer` is pixels to logits; `full`, `bias` and `head` are one step of training from pixels to
//! updated parameters: all of them, the biases alone (BitFit, Ben Zaken et al., ACL 2022) or the head.

use std::io::{BufRead, Write};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use everburn::backend::{Group, Optimiser, Rule, collect_grads, to_vec, track, untrack};
use everburn::core::{Images, Key};
use everburn::nn::layers::{Linear, Norm, cross_entropy, is_trainable};
use everburn::nn::vit::VitConfig;
use everburn::nn::{Backbone, Encoder, Normalise, targets};
use everburn_benches::{device, noise};

const CLASSES: usize = 100;

#[derive(Module, Debug)]
struct Model {
    encoder: Encoder,
    head: Linear,
}

struct Case {
    backbone: Backbone,
    model: Model,
    optimiser: Optimiser,
    images: Images,
    device: Device,
    labels: Vec<usize>,
    work: String,
}

fn backbone(name: &str, device: &Device) -> Option<(Backbone, usize)> {
    let vit = |image, patch, dim, depth, heads| {
        let config = VitConfig {
            image,
            patch,
            dim,
            depth,
            heads,
            hidden: 4 * dim,
        };
        let backbone = Backbone::vit(config, Normalise::HALF, Key::from_seed(0), device);
        Some((backbone.ok()?, image))
    };
    match name {
        "vit-128x6" => vit(32, 4, 128, 6, 4),
        "vit-192x6" => vit(32, 4, 192, 6, 3),
        "vit-768x2" => vit(224, 16, 768, 2, 12),
        "resnet18-20" => {
            let backbone = Backbone::resnet18(20, 32, Normalise::HALF, Key::from_seed(0), device);
            Some((backbone.ok()?, 32))
        }
        _ => None,
    }
}

impl Case {
    fn new(name: &str, work: &str, batch: usize) -> Option<Self> {
        let device = device();
        let (backbone, side) = backbone(name, &device)?;
        let head = Linear::new(backbone.dim(), CLASSES, Key::from_seed(1), &device);
        let model = Model {
            encoder: backbone.encoder().clone(),
            head,
        };
        let rule = if name.starts_with("vit") {
            Rule::adamw()
        } else {
            Rule::sgd(0.0)
        };
        let optimiser = Optimiser::new(rule, vec![Group::all(1e-3, 0.01)]).ok()?;
        Some(Self {
            images: noise(everburn::core::ImageShape::new(side, side, 3), batch),
            labels: (0..CLASSES).cycle().take(batch).collect(),
            backbone,
            model,
            optimiser,
            device,
            work: work.to_owned(),
        })
    }

    fn pixels(&self) -> Tensor<4> {
        let images = self.backbone.load(&self.images, &self.device).unwrap();
        self.backbone.normalise(images)
    }

    fn step(&mut self) -> f32 {
        let pixels = self.pixels();
        if self.work == "infer" {
            let features = self.model.encoder.forward(pixels, &mut Norm::Eval);
            return to_vec(&self.model.head.forward(features)).unwrap()[0];
        }
        let wanted = |path: &str| match self.work.as_str() {
            "full" => is_trainable(path),
            "bias" => path.ends_with("bias") || path.starts_with("head"),
            _ => path.starts_with("head"),
        };
        let live = track(self.model.clone(), wanted);
        let mut statistics = Vec::new();
        let mut norm = Norm::Train(&mut statistics);
        let features = live.encoder.forward(pixels, &mut norm);
        let logits = live.head.forward(features);
        let loss = cross_entropy(logits, targets(&self.labels, &self.device));
        let grads = collect_grads(&live, loss.backward());
        self.model = untrack(self.optimiser.step(live, grads).unwrap());
        self.model.encoder.absorb(statistics);
        to_vec(&loss.without_autodiff()).unwrap()[0]
    }
}

fn main() {
    let mut last: Option<(String, Case)> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, work, batch, steps] = words[..] else {
            println!("error: expected BACKBONE WORK BATCH STEPS, found `{line}`");
            continue;
        };
        let title = format!("{name} {work} {batch}");
        if last.as_ref().is_none_or(|(of, _)| *of != title) {
            drop(last.take());
            let Some(case) = Case::new(name, work, batch.parse().unwrap()) else {
                println!("error: no backbone `{name}`");
                continue;
            };
            last = Some((title, case));
        }
        let Some((_, case)) = &mut last else { continue };
        let steps: usize = steps.parse().unwrap();
        let times: Vec<String> = (0..steps)
            .map(|_| {
                let began = Instant::now();
                case.step();
                began.elapsed().as_secs_f64().to_string()
            })
            .collect();
        println!("{}", times.join(" "));
        std::io::stdout().flush().unwrap();
    }
}
