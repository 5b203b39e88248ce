//! Golden case `mos`, made by the official repository's own functions: merging, the orthogonality loss, self-refined
//! retrieval with its ensemble, statistics and alignment.
#![allow(clippy::unwrap_used, missing_docs)]

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use everburn_backend::{to_vec, track};
use everburn_core::{ClassId, Key, Step};
use everburn_mos::{Retrieved, ensemble, mean_with, merged, orthogonality, refine};
use everburn_nn::{
    Alignment, AlignmentConfig, ClassGaussians, ClassMeans, Classifier, Covariance, Head,
    Similarity, cross_entropy, targets,
};
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

/// The adapters of a block. Merging asks for no layout, so weights are as in the case.
#[derive(Module, Debug)]
struct Bottleneck {
    down: Weights,
    up: Weights,
}

#[derive(Module, Debug)]
struct Weights {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Set {
    blocks: Vec<Bottleneck>,
}

/// Makes a set of what `tensor` gives for names like `0.down`.
fn set(layers: usize, mut tensor: impl FnMut(&str) -> (Tensor<2>, Tensor<1>)) -> Set {
    let mut weights = |name: String| {
        let (weight, bias) = tensor(&name);
        Weights {
            weight: Param::from_tensor(weight),
            bias: Param::from_tensor(bias),
        }
    };
    let blocks = (0..layers).map(|layer| Bottleneck {
        down: weights(format!("{layer}.down")),
        up: weights(format!("{layer}.up")),
    });
    Set {
        blocks: blocks.collect(),
    }
}

/// All parameters, with names like `0.down.weight`.
fn parts(set: &Set) -> Vec<(String, Vec<f32>)> {
    let mut all = Vec::new();
    for (layer, block) in set.blocks.iter().enumerate() {
        for (name, weights) in [("down", &block.down), ("up", &block.up)] {
            let (weight, bias) = (weights.weight.val(), weights.bias.val());
            all.push((format!("{layer}.{name}.weight"), numbers(weight)));
            all.push((format!("{layer}.{name}.bias"), numbers(bias)));
        }
    }
    all
}

/// Row `row` of a tensor of more sides, cut down to as many values as `like` has.
fn row<const D: usize>(golden: &Golden, name: &str, row: usize, like: Tensor<D>) -> Tensor<D> {
    let (values, count) = (golden.f32(name), like.shape().num_elements());
    let data = TensorData::new(values[row * count..(row + 1) * count].to_vec(), like.dims());
    Tensor::from_data(data, &like.device())
}

#[test]
fn merging_is_that_of_the_official_code() {
    let golden = golden!("mos");
    let sizes = &golden.meta("sizes")["merge"];
    let [layers, steps, tasks] = ["layers", "steps", "tasks"].map(|name| whole(&sizes[name]));
    let hyper = golden.meta("hyper");
    let alpha = real(&hyper["adapter_momentum"]);
    for (choice, device) in test_devices() {
        let fraction = slack(choice).forward;
        let mut working = set(layers, |name| {
            let name = |part| format!("merge.init.{name}.{part}");
            let weight = golden.tensor(&name("weight"), &device);
            (weight, golden.tensor(&name("bias"), &device))
        });
        let (mut mean, mut before): (Option<Set>, Option<Set>) = (None, None);
        for task in 0..tasks {
            for step in 0..steps {
                let at = task * steps + step;
                let old = working.clone();
                let mut olds = old.blocks.iter().flat_map(|block| [&block.down, &block.up]);
                working = set(layers, |name| {
                    let old = olds.next().unwrap();
                    let name = |part| format!("merge.delta.{name}.{part}");
                    let (weight, bias) = (old.weight.val(), old.bias.val());
                    (
                        weight.clone() + row(&golden, &name("weight"), at, weight),
                        bias.clone() + row(&golden, &name("bias"), at, bias),
                    )
                });
                if let Some(mean) = &mean {
                    working = merged(working, mean, alpha, 1).unwrap();
                }
                for (name, values) in parts(&working) {
                    let name = format!("merge.out.working.{name}");
                    let mut all = golden.f32(&name);
                    all[at * values.len()..(at + 1) * values.len()].copy_from_slice(&values);
                    golden.check(&name, &all, fraction);
                }
            }
            before = mean.clone();
            mean = Some(match mean {
                None => working.clone(),
                Some(mean) => mean_with(mean, task, &working).unwrap(),
            });
            for (name, values) in parts(mean.as_ref().unwrap()) {
                let sum: Vec<f32> = values.iter().map(|x| x * (task + 1) as f32).collect();
                golden.check_row(&format!("merge.out.sum.{name}"), task, &sum, fraction);
            }
        }
        let times = whole(&hyper["repeated_merges"]);
        let before = before.unwrap();
        let repeated = merged(working.clone(), &before, alpha, times).unwrap();
        let one_by_one = (0..times).fold(working, |set, _| merged(set, &before, alpha, 1).unwrap());
        for set in [repeated, one_by_one] {
            for (name, values) in parts(&set) {
                golden.check(&format!("merge.out.repeated.{name}"), &values, fraction);
            }
        }
    }
}

#[test]
fn the_orthogonality_loss_is_that_of_the_official_code() {
    let golden = golden!("mos");
    let hyper = golden.meta("hyper");
    let [weight, temperature] = ["orth_reg", "orth_temperature"].map(|name| real(&hyper[name]));
    for (choice, device) in test_devices() {
        let slack = slack(choice);
        for has_means in [true, false] {
            let features = golden.tensor::<2>("orth.features", &device);
            let features = features.autodiff().require_grad();
            let means = has_means.then(|| golden.tensor("orth.class_means", &device));
            let loss = orthogonality(means, features.clone(), temperature) * weight;
            let name = if has_means { "with_means" } else { "no_means" };
            let name = |part| format!("orth.out.{name}.{part}");
            golden.check(
                &name("reg_times_loss"),
                &numbers(loss.clone()),
                slack.forward,
            );
            let grad = features.grad(&loss.backward()).unwrap();
            golden.check_tensor(&name("grad_features"), grad, slack.gradient);
        }
    }
}

#[test]
fn the_loss_of_a_step_is_that_of_the_official_code() {
    let golden = golden!("mos");
    let hyper = golden.meta("hyper");
    let [known, new] = ["known_classes", "new_classes"].map(|name| whole(&hyper[name]));
    for (choice, device) in test_devices() {
        let slack = slack(choice);
        let features = golden.tensor::<2>("orth.features", &device);
        let features = features.autodiff().require_grad();
        let head = track(head(&golden, "orth.head", &device), |_| true);
        let logits = head.forward(features.clone(), Classifier::Linear);
        let local: Vec<usize> = golden
            .usize("orth.labels")
            .iter()
            .map(|label| label - known)
            .collect();
        // The official code puts −∞ into the columns of earlier classes.
        let ce = cross_entropy(logits.narrow(1, known, new), targets(&local, &device));
        golden.check("orth.out.stage1.ce", &numbers(ce.clone()), slack.forward);
        let means = golden.tensor("orth.class_means", &device);
        let temperature = real(&hyper["orth_temperature"]);
        let apart = orthogonality(Some(means), features.clone(), temperature);
        let loss = ce + apart * real(&hyper["orth_reg"]);
        golden.check(
            "orth.out.stage1.loss",
            &numbers(loss.clone()),
            slack.forward,
        );
        let grads = loss.backward();
        let name = |part| format!("orth.out.stage1.grad_{part}");
        let of_features = features.grad(&grads).unwrap();
        golden.check_tensor(&name("features"), of_features, slack.gradient);
        let weight = head.weight.val().grad(&grads).unwrap();
        golden.check_tensor(&name("head_weight"), weight, slack.gradient);
        let bias = head.bias.as_ref().unwrap().val().grad(&grads).unwrap();
        golden.check_tensor(&name("head_bias"), bias, slack.gradient);
    }
}

fn head(golden: &Golden, name: &str, device: &Device) -> Head {
    Head {
        weight: Param::from_tensor(golden.tensor(&format!("{name}.weight"), device)),
        bias: Some(Param::from_tensor(
            golden.tensor(&format!("{name}.bias"), device),
        )),
    }
}

/// The number of the largest value.
fn largest(row: &[f32]) -> usize {
    let columns = 0..row.len();
    columns
        .reduce(|best, at| if row[at] > row[best] { at } else { best })
        .unwrap()
}

#[test]
fn retrieval_and_ensemble_are_those_of_the_official_code() {
    let golden = golden!("mos");
    let hyper = golden.meta("hyper");
    let [seen, most] = ["classes_seen", "max_rounds"].map(|name| whole(&hyper[name]));
    let [images, sets, dim] = golden.shape("retrieval.features").try_into().unwrap();
    let task_of = golden.usize("retrieval.class_to_task");

    // The prototype of each class is the mean of itself.
    let mut prototypes = ClassMeans::new(dim);
    let classes: Vec<ClassId> = (0..seen as u32).map(ClassId).collect();
    prototypes
        .add(&golden.f32("retrieval.prototypes"), &classes)
        .unwrap();
    let under_first: Vec<f32> = golden
        .f32("retrieval.features")
        .chunks_exact(sets * dim)
        .flat_map(|image| image[..dim].to_vec())
        .collect();
    let cosines = prototypes.scores(&under_first, Similarity::Cosine).unwrap();
    golden.check("retrieval.out.prototype_start.cosine", &cosines, 0.0);
    let nearest = cosines.chunks_exact(seen).map(largest);
    let nearest: Vec<usize> = nearest.map(|class| task_of[class]).collect();

    for (choice, device) in test_devices() {
        let fraction = slack(choice).forward;
        let features = golden.tensor::<3>("retrieval.features", &device);
        let features = features.reshape([images * sets, dim]);
        let head = head(&golden, "retrieval.head", &device);
        let logits = |pairs: &[(usize, usize)]| {
            let rows: Vec<usize> = pairs
                .iter()
                .map(|(image, set)| image * sets + set)
                .collect();
            let features = features.clone().select(0, targets(&rows, &device));
            let logits = head.forward(features, Classifier::Linear);
            to_vec(&logits.narrow(1, 0, seen))
        };
        let forced = golden.usize("retrieval.forced_start");
        for (name, first) in [("prototype_start", &nearest), ("forced_start", &forced)] {
            let name = |part: &str| format!("retrieval.out.{name}.{part}");
            let (found, refined) = refine(first, most, &task_of, logits).unwrap();
            let of = |part: fn(&Retrieved) -> usize| found.iter().map(part).collect::<Vec<_>>();
            assert_eq!(of(Retrieved::rounds), golden.usize(&name("rounds")));
            assert_eq!(of(Retrieved::last), golden.usize(&name("last_adapter")));
            golden.check(&name("refined_logits"), &refined, fraction);
            if first != &nearest {
                continue;
            }
            let tasks = whole(&hyper["current_task"]) + 1;
            let scores = ensemble(&refined, &cosines, seen, tasks);
            golden.check(&name("scores"), &scores, fraction);
            let predicted: Vec<usize> = scores.chunks_exact(seen).map(largest).collect();
            assert_eq!(predicted, golden.usize(&name("pred")));
        }
    }
}

/// The statistics of the case, class c being `ClassId(c)`.
fn gaussians(golden: &Golden, covariance: Covariance) -> ClassGaussians {
    let jitter = real(&golden.meta("hyper")["ca"]["jitter"]);
    let dim = golden.shape("ca.features")[1];
    let mut gaussians = ClassGaussians::new(dim, covariance, jitter).unwrap();
    let labels = golden.usize("ca.labels");
    let classes = 1 + *labels.iter().max().unwrap();
    let features = golden.f32("ca.features");
    for class in 0..classes {
        let rows = features.chunks_exact(dim).zip(&labels);
        let own: Vec<&[f32]> = rows
            .filter(|(_, label)| **label == class)
            .map(|(row, _)| row)
            .collect();
        let labels = vec![ClassId(class as u32); own.len()];
        gaussians.add(&own.concat(), &labels).unwrap();
        gaussians.close().unwrap();
    }
    gaussians
}

#[test]
fn statistics_are_those_of_the_official_code() {
    let golden = golden!("mos");
    let full = gaussians(&golden, Covariance::Full);
    let single = |values: Vec<f64>| values.into_iter().map(|x| x as f32).collect::<Vec<_>>();
    golden.check("ca.out.mean", &single(full.means().to_vec()), 0.0);
    let classes = 0..full.seen().len();
    let covariances = classes.clone().flat_map(|class| full.covariance(class));
    golden.check("ca.out.cov", &single(covariances.collect()), 0.0);
    let (diagonal, dim) = (gaussians(&golden, Covariance::Diagonal), full.dim());
    let variances = classes.flat_map(|class| {
        let covariance = diagonal.covariance(class);
        (0..dim).map(move |d| covariance[d * dim + d])
    });
    golden.check("ca.out.variance", &single(variances.collect()), 0.0);
}

#[test]
fn alignment_moves_the_head_as_the_official_one() {
    let golden = golden!("mos");
    let hyper = &golden.meta("hyper")["ca"];
    let gaussians = gaussians(&golden, Covariance::Full);
    let [epochs, classes, per_class, dim] = golden.shape("ca.noise").try_into().unwrap();
    let (noise, order) = (golden.f64("ca.noise"), golden.usize("ca.permutation"));
    let sample = |epoch: usize, number: usize| {
        let mut sample = vec![0.0; dim];
        let noise = &noise[(epoch * classes * per_class + number) * dim..][..dim];
        gaussians.sample_from_noise(number / per_class, 1.0, noise, &mut sample);
        sample
    };
    for (choice, device) in test_devices() {
        let slack = slack(choice);
        let mut alignment = Alignment::new(AlignmentConfig {
            epochs,
            samples_per_class: per_class,
            rate: real(&hyper["lr"]),
            momentum: real(&hyper["momentum"]),
            weight_decay: real(&hyper["weight_decay"]),
        })
        .unwrap();
        alignment.begin(Key::from_seed(1));
        let mut head = head(&golden, "ca.head", &device);
        let mut losses = Vec::new();
        for index in 0..epochs * classes {
            let epoch = index / classes;
            let chosen = &order[index * per_class..(index + 1) * per_class];
            let values = chosen.iter().flat_map(|number| sample(epoch, *number));
            let data = TensorData::new(values.collect::<Vec<f32>>(), [per_class, dim]);
            let features = Tensor::<2>::from_data(data, &device);
            let labels: Vec<usize> = chosen.iter().map(|number| number / per_class).collect();
            let step = Step {
                task: None,
                stage: 0,
                epoch,
                epochs,
                index,
                steps: epochs * classes,
            };
            // Losses of an asynchronous device are read late.
            let mut read = None;
            let batch = (features, targets(&labels, &device));
            (head, _) = alignment
                .step(
                    &head,
                    Classifier::Linear,
                    batch,
                    &step,
                    |logits, targets| {
                        // The official head has rows for classes yet to come.
                        let loss = cross_entropy(logits.narrow(1, 0, classes), targets);
                        read = Some(loss.clone());
                        loss
                    },
                )
                .unwrap();
            losses.extend(numbers(read.unwrap()));
        }
        golden.check("ca.out.loss", &losses, slack.forward);
        golden.check_tensor("ca.out.head.weight", head.weight.val(), slack.gradient);
        let bias = head.bias.as_ref().unwrap().val();
        golden.check_tensor("ca.out.head.bias", bias, slack.gradient);
    }
}
