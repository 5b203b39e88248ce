//! Golden case `onpro`: the official losses with their gradients, copies, feedback from listed draws, mixed labels.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::VecDeque;

use burn::tensor::Tensor;
use everburn_backend::to_vec;
use everburn_nn::layers::unit_rows;
use everburn_nn::targets;
use everburn_onpro::{
    Adaptive, ClassAverage, Draws, Means, Mix, copied_labels, copies, equilibrium, instance_memory,
    instance_stream, mix_images, mix_labels, mixed_cross_entropy, pair_counts, similarities,
};
use everburn_testkit::{Golden, golden, slack, test_devices};
use serde_json::Value;

fn real(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn whole(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn wholes(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(whole).collect()
}

fn reals(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(real).collect()
}

/// Rows of classes in the place that these have among all; other rows are 0.
fn placed(rows: Tensor<2>, classes: &[usize], all: usize) -> Vec<f32> {
    let width = rows.dims()[1];
    let mut placed = vec![0.0; all * width];
    let rows = to_vec(&rows.without_autodiff()).unwrap();
    for (row, class) in rows.chunks_exact(width).zip(classes) {
        placed[class * width..(class + 1) * width].copy_from_slice(row);
    }
    placed
}

#[test]
fn equilibrium_is_that_of_the_official_code() {
    let golden = golden!("onpro");
    let hyper = &golden.meta("hyper")["ope"];
    let all = whole(&hyper["num_classes_seen"]);
    for (choice, device) in test_devices() {
        let slack = slack(choice);
        for case in ["ope", "ope_one_class"] {
            let name = |part: &str| format!("{case}.{part}");
            // The single class is of the same projections.
            let views = ["ope.z1", "ope.z2"]
                .map(|view| golden.tensor::<2>(view, &device).autodiff().require_grad());
            let average = ClassAverage::new(&golden.usize(&name("y")), &device);
            let [first, second] = views.clone().map(|view| average.of(unit_rows(view)));
            for (part, rows) in [("proto1", &first), ("proto2", &second)] {
                let rows = placed(rows.clone(), &average.classes, all);
                golden.check(&name(part), &rows, slack.forward);
            }
            let loss = equilibrium(first, second, real(&hyper["temperature"]));
            golden.check_tensor(&name("loss"), loss.clone(), slack.forward);
            let gradients = loss.backward();
            for (part, view) in [("grad_z1", &views[0]), ("grad_z2", &views[1])] {
                let gradient = view.grad(&gradients).unwrap();
                golden.check_tensor(&name(part), gradient, slack.gradient);
            }
        }
    }
}

#[test]
fn instance_losses_are_those_of_the_official_code() {
    let golden = golden!("onpro");
    let hyper = &golden.meta("hyper")["ins"];
    let (temperature, offset) = (real(&hyper["temperature"]), whole(&hyper["offset"]));
    let factor = real(&hyper["sim_lambda"]);
    for (choice, device) in test_devices() {
        let slack = slack(choice);
        for case in ["ins_n", "ins_uni"] {
            let name = |part: &str| format!("{case}.{part}");
            let labels = golden.f32(&name("labels"));
            let loss_of = |similarity: Tensor<2>| match case {
                "ins_n" => instance_stream(similarity, &labels, temperature),
                _ => instance_memory(similarity, &labels, temperature),
            };
            let [features, projections] = ["ins.features", "ins.projections"]
                .map(|rows| golden.tensor::<2>(rows, &device).autodiff().require_grad());
            let similarity = similarities(
                unit_rows(projections.clone()),
                unit_rows(features.clone()),
                offset,
                factor,
            );
            golden.check_tensor(&name("sim"), similarity.clone(), slack.forward);
            let leaf = similarity
                .clone()
                .without_autodiff()
                .autodiff()
                .require_grad();
            let gradient = leaf.grad(&loss_of(leaf.clone()).backward()).unwrap();
            golden.check_tensor(&name("grad_sim"), gradient, slack.gradient);
            let loss = loss_of(similarity);
            golden.check_tensor(&name("loss"), loss.clone(), slack.forward);
            let gradients = loss.backward();
            let leaves = [
                ("grad_features", &features),
                ("grad_projections", &projections),
            ];
            for (part, leaf) in leaves {
                golden.check_tensor(&name(part), leaf.grad(&gradients).unwrap(), slack.gradient);
            }
        }
    }
}

#[test]
fn copies_come_in_the_official_order() {
    let golden = golden!("onpro");
    let hyper = &golden.meta("hyper")["rot"];
    let (count, classes) = (whole(&hyper["copies"]), whole(&hyper["num_classes_total"]));
    for (_, device) in test_devices() {
        let images = golden.tensor::<4>("rot.x", &device);
        // Pixels are moved, and nothing is computed.
        let turned = to_vec(&copies(images, count).unwrap()).unwrap();
        assert_eq!(turned, golden.f32("rot.out"));
    }
    let labels = copied_labels(&golden.f32("rot.y"), classes, count);
    assert_eq!(labels, golden.f32("rot.labels"));
}

/// What the official code drew.
struct Listed {
    choices: VecDeque<(String, Vec<f64>)>,
    base: Option<Base>,
}

/// The draws of the part that is of the draw.
struct Base {
    chosen: Vec<usize>,
    mixed: bool,
    pairs: Vec<usize>,
    shares: Vec<f64>,
}

impl Listed {
    fn next(&mut self, kind: &str, count: usize) -> Vec<f64> {
        let (found, values) = self.choices.pop_front().unwrap();
        assert_eq!((found.as_str(), values.len()), (kind, count));
        values
    }

    fn wholes(&mut self, kind: &str, count: usize) -> Vec<usize> {
        self.next(kind, count)
            .into_iter()
            .map(|value| value as usize)
            .collect()
    }
}

impl Draws for Listed {
    fn distinct(&mut self, _: usize, count: usize) -> Vec<usize> {
        let chosen = self.wholes("choice", count);
        assert_eq!(chosen, self.base.as_ref().unwrap().chosen);
        chosen
    }

    fn among(&mut self, list: &[usize], count: usize) -> Vec<usize> {
        let chosen = self.wholes("choice", count);
        assert!(
            chosen.iter().all(|value| list.contains(value)),
            "{chosen:?} {list:?}"
        );
        chosen
    }

    fn permutation(&mut self, n: usize) -> Vec<usize> {
        match &self.base {
            Some(base) => base.pairs.clone(),
            None => self.wholes("randperm", n),
        }
    }

    fn coin(&mut self) -> f64 {
        match &self.base {
            Some(base) if base.mixed => 0.0,
            Some(_) => {
                self.base = None;
                1.0
            }
            None => self.next("coin", 1)[0],
        }
    }

    fn uniform(&mut self, _: usize) -> Vec<f64> {
        self.base.take().unwrap().shares
    }

    fn beta(&mut self, _: f64, count: usize) -> Vec<f64> {
        self.next("beta", count)
    }
}

/// The numbers of the feedback cases.
fn feedbacks(golden: &Golden) -> Vec<String> {
    let hyper = golden.meta("hyper");
    let names = hyper.as_object().unwrap().keys();
    let names: Vec<String> = names
        .filter(|name| name.starts_with("apf"))
        .cloned()
        .collect();
    assert!(!names.is_empty());
    names
}

/// The means of the classes that have one.
fn means(golden: &Golden) -> (Vec<usize>, Vec<f32>) {
    let width = golden.shape("apf.classes_mean")[1];
    let rows = golden.f32("apf.classes_mean");
    let rows = rows.chunks_exact(width).enumerate();
    let rows = rows.filter(|(_, row)| row.iter().any(|value| *value != 0.0));
    let (classes, rows): (Vec<usize>, Vec<&[f32]>) = rows.unzip();
    (classes, rows.concat())
}

#[test]
fn feedback_is_that_of_the_official_code() {
    let golden = golden!("onpro");
    let (classes, rows) = means(&golden);
    let means = Means {
        classes: &classes,
        rows: &rows,
    };
    let slot_classes = golden.usize("apf.buffer_y");
    for case in feedbacks(&golden) {
        let hyper = &golden.meta("hyper")[&case];
        let name = |part: &str| format!("{case}.{part}");
        let pairs: Vec<Value> = hyper["pairs"].as_array().unwrap().clone();
        let pairs: Vec<Vec<usize>> = pairs.iter().map(wholes).collect();
        let named = |(first, second): (usize, usize)| vec![classes[first], classes[second]];
        let found: Vec<Vec<usize>> = means.pairs().into_iter().map(named).collect();
        assert_eq!(found, pairs);

        let probabilities = means.probabilities();
        for (found, expected) in probabilities.iter().zip(golden.f64(&name("pair_prob_f64"))) {
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }

        let drawn = golden.usize(&name("draw_idx"));
        assert_eq!(drawn.len(), whole(&hyper["nb"]));
        let draws: Vec<(String, Vec<f64>)> = (hyper["draws"].as_array().unwrap().iter())
            .map(|draw| (draw[0].as_str().unwrap().to_owned(), reals(&draw[1])))
            .collect();
        let mixup = &hyper["base_mixup_params"];
        let most = real(&hyper["upper"]);
        let listed = || Listed {
            choices: draws.clone().into(),
            base: Some(Base {
                chosen: wholes(&hyper["base_indices_into_draw"]),
                mixed: real(&mixup["batch_prob"][0]) > 0.5,
                pairs: wholes(&mixup["mixup_pairs"]),
                shares: reals(&mixup["mixup_lambdas"])
                    .iter()
                    .map(|l| l / most)
                    .collect(),
            }),
        };

        // Rounded, and then one more or less by lot.
        let more = drawn.len() - wholes(&hyper["base_indices_into_draw"]).len();
        let raw = probabilities
            .iter()
            .map(|p| (p * more as f64).round_ties_even() as usize);
        assert_eq!(raw.collect::<Vec<_>>(), golden.usize(&name("raw_counts")));
        let mut by_lot = listed();
        by_lot.base = None;
        by_lot.choices.pop_front();
        let counts = pair_counts(&probabilities, more, &mut by_lot);
        assert_eq!(counts, golden.usize(&name("final_counts")));

        let adaptive = Adaptive {
            base_rate: real(&hyper["base_rate"]),
            mixing: real(&hyper["mixup_p"]),
            most,
            alpha: real(&hyper["alpha"]),
        };
        let mut draws = listed();
        let plan = adaptive.plan(&drawn, &slot_classes, means, &mut draws);
        assert!(draws.choices.is_empty(), "{:?} are left", draws.choices);
        check_plan(&golden, &case, &plan, &slot_classes);
    }
}

/// The official batch of a plan: images, classes and shares.
fn check_plan(golden: &Golden, case: &str, plan: &[Mix], slot_classes: &[usize]) {
    let name = |part: &str| format!("{case}.{part}");
    let near = |found: &[f32], expected: Vec<f64>| {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-6,
                "{case}: {found} {expected}"
            );
        }
    };
    let shares: Vec<f32> = plan.iter().map(|mix| mix.share).collect();
    let [first, second] = [|mix: &Mix| mix.first, |mix: &Mix| mix.second]
        .map(|slot| plan.iter().map(slot).collect::<Vec<usize>>());
    for (_, device) in test_devices() {
        let images = golden.tensor::<4>("apf.buffer_x", &device);
        let of = |slots: &[usize]| images.clone().select(0, targets(slots, &device));
        let mixed = mix_images(of(&first), of(&second), &shares);
        near(&to_vec(&mixed).unwrap(), golden.f64(&name("out_x")));
    }
    let [first, second] = [first, second].map(|slots| {
        slots
            .iter()
            .map(|slot| slot_classes[*slot])
            .collect::<Vec<_>>()
    });
    let classes = first.iter().zip(&second).zip(&shares);
    let labels = classes.flat_map(|((a, b), share)| [*a as f32, *b as f32, *share]);
    near(&labels.collect::<Vec<_>>(), golden.f64(&name("out_mix")));
    let scalars = mix_labels(&first, &second, &shares);
    near(&scalars, golden.f64(&name("out_label_scalar")));
}

#[test]
fn mixed_cross_entropy_is_that_of_the_official_code() {
    let golden = golden!("onpro");
    let labels = golden.f64("mixce.labels");
    let column = |column: usize| labels.iter().skip(column).step_by(3).copied();
    let classes = |of: usize| column(of).map(|class| class as usize).collect::<Vec<_>>();
    let shares: Vec<f32> = column(2).map(|share| share as f32).collect();
    for (choice, device) in test_devices() {
        let slack = slack(choice);
        let logits = golden.tensor::<2>("mixce.logits", &device);
        let logits = logits.autodiff().require_grad();
        let loss = mixed_cross_entropy(logits.clone(), &classes(0), &classes(1), &shares);
        golden.check_tensor("mixce.loss", loss.clone(), slack.forward);
        let gradient = logits.grad(&loss.backward()).unwrap();
        golden.check_tensor("mixce.grad_logits", gradient, slack.gradient);
    }
}
