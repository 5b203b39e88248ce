//! Golden case `slca`, made by the official repository's own functions: statistics, alignment with its losses and heads,
//! and three steps of SGD at two rates.
#![allow(clippy::unwrap_used, missing_docs)]

use burn::module::{Module, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use everburn_backend::{Group, Optimiser, Rule, Schedule, collect_grads, to_vec, track, untrack};
use everburn_core::{ClassId, Key, Step};
use everburn_nn::layers::Linear;
use everburn_nn::{
    Alignment, AlignmentConfig, ClassGaussians, Classifier, Covariance, Head, cross_entropy,
    targets,
};
use everburn_slca::{Shrinkage, normalised_by_task, symmetric_cross_entropy};
use everburn_testkit::{Golden, golden, slack, test_devices};
use serde_json::Value;

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    to_vec(&tensor.without_autodiff()).unwrap()
}

fn real(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn whole(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

/// The statistics of the case, class c being `ClassId(c)`, taken in by batches of 7.
fn gaussians(golden: &Golden) -> ClassGaussians {
    let (dim, classes) = (golden.size("dim"), golden.size("classes"));
    let jitter = real(&golden.meta("hyper")["covariance_jitter"]);
    let (features, labels) = (golden.f32("stats.features"), golden.usize("stats.labels"));
    let mut gaussians = ClassGaussians::new(dim, Covariance::Full, jitter).unwrap();
    for class in 0..classes {
        let rows = features.chunks_exact(dim).zip(&labels);
        let own: Vec<&[f32]> = rows
            .filter(|(_, label)| **label == class)
            .map(|(row, _)| row)
            .collect();
        for batch in own.chunks(7) {
            let labels = vec![ClassId(class as u32); batch.len()];
            gaussians.close_but(&labels).unwrap();
            gaussians.add(&batch.concat(), &labels).unwrap();
        }
    }
    gaussians.close().unwrap();
    gaussians
}

#[test]
fn means_and_covariances_are_those_of_the_official_code() {
    let golden = golden!("slca");
    let gaussians = gaussians(&golden);
    let classes = 0..golden.size("classes");
    let of = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x as f32).collect::<Vec<_>>();
    let means = of(&mut classes
        .clone()
        .flat_map(|class| gaussians.mean(class).to_vec()));
    golden.check("stats.out.mean", &means, 0.0);
    let covariances = of(&mut classes.flat_map(|class| gaussians.covariance(class)));
    golden.check("stats.out.cov", &covariances, 0.0);
}

/// The samples of an epoch, `[classes * samples, dim]`, class after class.
fn samples(golden: &Golden, gaussians: &ClassGaussians, epoch: usize) -> Vec<Vec<f32>> {
    let hyper = golden.meta("hyper");
    let [_, classes, per_class, dim] = golden.shape("ca.noise").try_into().unwrap();
    let noise = golden.f64("ca.noise");
    let mut all = Vec::new();
    for class in 0..classes {
        let scale = real(&hyper["mean_scale"][class]);
        for i in 0..per_class {
            let at = ((epoch * classes + class) * per_class + i) * dim;
            let mut sample = vec![0.0; dim];
            gaussians.sample_from_noise(class, scale, &noise[at..at + dim], &mut sample);
            all.push(sample);
        }
    }
    all
}

#[test]
fn samples_are_drawn_through_the_cholesky_factor() {
    let golden = golden!("slca");
    let all = samples(&golden, &gaussians(&golden), 0);
    let per_class = golden.shape("ca.noise")[2];
    let shown = golden.shape("ca.out.samples")[1];
    let first: Vec<f32> = all
        .chunks(per_class)
        .flat_map(|class| class[..shown].concat())
        .collect();
    golden.check("ca.out.samples", &first, 0.0);
}

/// The task of each class.
fn tasks(hyper: &Value) -> Vec<usize> {
    let sizes: Vec<usize> = serde_json::from_value(hyper["task_sizes"].clone()).unwrap();
    let of = |(task, size): (usize, &usize)| vec![task; *size];
    sizes.iter().enumerate().flat_map(of).collect()
}

#[test]
fn older_means_are_drawn_nearer_to_zero() {
    let hyper = golden!("slca").meta("hyper");
    let current = whole(&hyper["current_task"]);
    let mut rng = Key::from_seed(1).rng();
    let sizes: Vec<usize> = serde_json::from_value(hyper["task_sizes"].clone()).unwrap();
    for class in 0..sizes.iter().sum() {
        // The official code takes this for the task of a class; where tasks have one size it is.
        let task = class / sizes[current];
        let shrink = Shrinkage::Mean { by: 0.1 }.of(task, current, &mut rng);
        let expected = real(&hyper["mean_scale"][class]);
        assert!((shrink.mean - expected).abs() < 1e-12 && shrink.sample == 1.0);
    }
}

/// The heads below a prefix as one.
fn head(golden: &Golden, prefix: &str, count: usize, device: &Device) -> Head {
    let part = |part: &str, task: usize| format!("{prefix}.{task}.{part}");
    let weights = (0..count).map(|task| golden.tensor::<2>(&part("weight", task), device));
    let biases = (0..count).map(|task| golden.tensor::<1>(&part("bias", task), device));
    Head {
        weight: Param::from_tensor(Tensor::cat(weights.collect(), 0)),
        bias: Some(Param::from_tensor(Tensor::cat(biases.collect(), 0))),
    }
}

/// Compares the rows of each task's head with those of the case.
fn check_heads(golden: &Golden, found: &Head, prefix: &str, sizes: &[usize], fraction: f64) {
    let mut first = 0;
    for (task, size) in sizes.iter().enumerate() {
        let weight = found.weight.val().narrow(0, first, *size);
        golden.check_tensor(&format!("{prefix}.{task}.weight"), weight, fraction);
        let bias = found.bias.as_ref().unwrap().val().narrow(0, first, *size);
        golden.check_tensor(&format!("{prefix}.{task}.bias"), bias, fraction);
        first += size;
    }
}

#[test]
fn alignment_moves_the_heads_as_the_official_one() {
    let golden = golden!("slca");
    let hyper = golden.meta("hyper");
    let (gaussians, tasks) = (gaussians(&golden), tasks(&hyper));
    let sizes: Vec<usize> = serde_json::from_value(hyper["task_sizes"].clone()).unwrap();
    let (classes, dim) = (golden.size("classes"), golden.size("dim"));
    let (epochs, batch) = (whole(&hyper["ca_epochs"]), whole(&hyper["ca_batch"]));
    let tau = real(&hyper["tau"]);
    let order = golden.usize("ca.permutation");
    for (choice, device) in test_devices() {
        let slack = slack(choice);
        let config = AlignmentConfig {
            epochs,
            samples_per_class: batch,
            rate: real(&hyper["ca_lr"]),
            momentum: real(&hyper["ca_momentum"]),
            weight_decay: real(&hyper["ca_weight_decay"]),
        };
        let mut alignment = Alignment::new(config).unwrap();
        alignment.begin(Key::from_seed(1));
        let mut head = head(&golden, "ca.heads", sizes.len(), &device);
        let mut losses = Vec::new();
        for epoch in 0..epochs {
            let all = samples(&golden, &gaussians, epoch);
            for number in 0..classes {
                let first = epoch * all.len() + number * batch;
                let chosen = &order[first..first + batch];
                let values: Vec<f32> = chosen.iter().flat_map(|row| all[*row].clone()).collect();
                let features = TensorData::new(values, [batch, dim]);
                let features = Tensor::<2>::from_data(features, &device);
                let labels: Vec<usize> = chosen.iter().map(|row| row / batch).collect();
                if losses.is_empty() {
                    let name = "ca.out.first_batch_normalised_logits";
                    let logits = head.forward(features.clone(), Classifier::Linear);
                    let logits = normalised_by_task(logits, &tasks, tau);
                    let shown = golden.shape(name)[0];
                    golden.check_tensor(name, logits.narrow(0, 0, shown), slack.forward);
                }
                let step = Step {
                    task: None,
                    stage: 0,
                    epoch,
                    epochs,
                    index: epoch * classes + number,
                    steps: epochs * classes,
                };
                // Losses of an asynchronous device are read late.
                let mut seen = None;
                (head, _) = alignment
                    .step(
                        &head,
                        Classifier::Linear,
                        (features, targets(&labels, &device)),
                        &step,
                        |logits, targets| {
                            let logits = normalised_by_task(logits, &tasks, tau);
                            let loss = cross_entropy(logits, targets);
                            seen = Some(loss.clone());
                            loss
                        },
                    )
                    .unwrap();
                losses.extend(numbers(seen.unwrap()));
            }
        }
        golden.check("ca.out.loss", &losses, slack.forward);
        check_heads(&golden, &head, "ca.out.heads", &sizes, slack.gradient);
        let features = golden.tensor::<2>("stats.features", &device);
        let [rows, _] = features.dims();
        let fifth: Vec<usize> = (0..rows).step_by(5).collect();
        let features = features.select(0, targets(&fifth, &device));
        let logits = head.forward(features, Classifier::Linear);
        golden.check_tensor("ca.out.logits_after", logits, slack.gradient);
    }
}

/// A backbone of one layer, and the heads of two tasks: paths as in a network.
#[derive(Module, Debug)]
struct Toy {
    backbone: Linear,
    head: Head,
}

#[test]
fn sgd_at_two_rates_with_resting_rows_is_the_official_one() {
    let golden = golden!("slca");
    let hyper = &golden.meta("hyper")["stage1"];
    let of = |name: &str| real(&hyper[name]);
    let sizes: Vec<usize> =
        serde_json::from_value(golden.meta("sizes")["stage1"]["sizes"].clone()).unwrap();
    let old = whole(&hyper["num_old_classes"]);
    let rates = [of("lr_backbone"), of("lr_head")];
    let schedule = Schedule::MultiStep {
        milestones: serde_json::from_value(hyper["milestones"].clone()).unwrap(),
        gamma: of("gamma"),
    };
    let epochs = whole(&hyper["epochs"]);
    for (choice, device) in test_devices() {
        let slack = slack(choice);
        let decay = of("weight_decay");
        let groups = vec![
            Group::below("backbone", rates[0], decay),
            Group::below("head", rates[1], decay),
        ];
        let mut optimiser = Optimiser::new(Rule::sgd(of("momentum")), groups).unwrap();
        let weight = golden.tensor::<2>("stage1.backbone.weight", &device);
        let mut toy = Toy {
            backbone: Linear {
                weight: Param::from_tensor(weight.transpose()),
                bias: Param::from_tensor(golden.tensor("stage1.backbone.bias", &device)),
            },
            head: head(&golden, "stage1.heads", sizes.len(), &device),
        };
        let chosen: Vec<bool> = (0..sizes.iter().sum()).map(|row| row >= old).collect();
        let inputs = golden.tensor::<3>("stage1.inputs", &device);
        let labels = golden.usize("stage1.labels");
        let [_, batch, _] = inputs.dims();
        let (mut losses, mut used) = (Vec::new(), Vec::new());
        for epoch in 0..epochs {
            for (name, rate) in ["backbone", "head"].into_iter().zip(rates) {
                let rate = schedule.rate(rate, epoch, epochs);
                optimiser.set_rate(name, rate);
                used.push(rate as f32);
            }
            let before = toy.head.clone();
            let live = track(toy.clone(), |_| true);
            let x = inputs.clone().narrow(0, epoch, 1).squeeze_dim::<2>(0);
            let logits = live
                .head
                .forward(live.backbone.forward(x), Classifier::Linear);
            let count = logits.dims()[1] - old;
            let own: Vec<usize> = labels[epoch * batch..(epoch + 1) * batch]
                .iter()
                .map(|label| label - old)
                .collect();
            let loss = cross_entropy(logits.narrow(1, old, count), targets(&own, &device));
            losses.extend(numbers(loss.clone()));
            let grads = collect_grads(&live, loss.backward());
            toy = untrack(optimiser.step(live, grads).unwrap());
            toy.head = before.with_rows_of(&toy.head, &chosen);

            let weight = numbers(toy.backbone.weight.val().transpose());
            let name = |part: &str| format!("stage1.out.{part}");
            golden.check_row(&name("backbone.weight"), epoch, &weight, slack.gradient);
            let bias = numbers(toy.backbone.bias.val());
            golden.check_row(&name("backbone.bias"), epoch, &bias, slack.gradient);
            let mut first = 0;
            for (task, size) in sizes.iter().enumerate() {
                let weight = numbers(toy.head.weight.val().narrow(0, first, *size));
                let bias = toy.head.bias.as_ref().unwrap().val();
                let bias = numbers(bias.narrow(0, first, *size));
                let name = |part: &str| format!("stage1.out.heads.{task}.{part}");
                golden.check_row(&name("weight"), epoch, &weight, slack.gradient);
                golden.check_row(&name("bias"), epoch, &bias, slack.gradient);
                first += size;
            }
        }
        golden.check("stage1.out.loss", &losses, slack.forward);
        golden.check("stage1.out.lr", &used, 0.0);
    }
}

#[test]
fn the_symmetric_loss_is_that_of_the_official_code() {
    let golden = golden!("slca");
    let hyper = &golden.meta("hyper")["slcapp"];
    let [a, b] = ["a", "b"].map(|name| real(&hyper[name]));
    for (choice, device) in test_devices() {
        let slack = slack(choice);
        let labels = golden.usize("slcapp.labels");
        let logits = || {
            let logits = golden.tensor::<2>("slcapp.logits", &device);
            logits.autodiff().require_grad()
        };
        let loss = |a, b| symmetric_cross_entropy(logits(), targets(&labels, &device), a, b);
        golden.check("slcapp.out.ce", &numbers(loss(1.0, 0.0)), slack.forward);
        golden.check("slcapp.out.rce", &numbers(loss(0.0, 1.0)), slack.forward);
        let logits = logits();
        let loss = symmetric_cross_entropy(logits.clone(), targets(&labels, &device), a, b);
        golden.check("slcapp.out.loss", &numbers(loss.clone()), slack.forward);
        let grads = loss.backward();
        let grad = logits.grad(&grads).unwrap();
        golden.check(
            "slcapp.out.grad_logits",
            &to_vec(&grad).unwrap(),
            slack.gradient,
        );
    }
    // And cross-entropy is what burn calls it.
    let device = &test_devices()[0].1;
    let logits = golden.tensor::<2>("slcapp.logits", device);
    let labels = golden.usize("slcapp.labels");
    let picked = log_softmax(logits, 1)
        .gather(1, targets(&labels, device).unsqueeze_dim(1))
        .mean()
        .neg();
    golden.check("slcapp.out.ce", &numbers(picked), 0.0);
}
