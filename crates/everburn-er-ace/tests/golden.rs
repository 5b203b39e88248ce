//! The official loss (pclucas14/AML `process_inc`, a cosine head), value by value.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;

use burn::tensor::{Device, Tensor};
use everburn_backend::to_vec;
use everburn_er_ace::asymmetric;
use everburn_nn::{Classifier, cross_entropy, targets};
use everburn_testkit::{Golden, golden, slack, test_devices};

/// A case under a tape of its own: burn's can be gone back along once.
struct Losses {
    /// `x`, `w` and `x_mem`.
    inputs: [(&'static str, Tensor<2>); 3],
    logits: Tensor<2>,
    masked: Tensor<2>,
    stream: Tensor<1>,
    memory: Tensor<1>,
}

fn losses(golden: &Golden, case: &str, device: &Device) -> Losses {
    let input = |name: &str| {
        let tensor = golden.tensor::<2>(&format!("{case}.{name}"), device);
        tensor.autodiff().require_grad()
    };
    let [x, w, x_mem] = ["x", "w", "x_mem"].map(input);
    let labels = |name: &str| golden.usize(&format!("{case}.{name}"));
    let scale = golden.meta("hyper")[case]["scale"].as_f64().unwrap();
    let classifier = Classifier::Cosine { scale };

    let logits = classifier.logits(x.clone(), w.clone(), None);
    let newest = *seen(golden, case).last().unwrap();
    let masked = asymmetric(logits.clone(), &labels("y"), newest);
    let recalled = classifier.logits(x_mem.clone(), w.clone(), None);
    Losses {
        stream: cross_entropy(masked.clone(), targets(&labels("y"), device)),
        memory: cross_entropy(recalled, targets(&labels("y_mem"), device)),
        inputs: [("x", x), ("w", w), ("x_mem", x_mem)],
        logits,
        masked,
    }
}

/// The classes seen so far, this batch's included.
fn seen(golden: &Golden, case: &str) -> BTreeSet<usize> {
    let before = golden.meta("hyper")[case]["seen_before"].clone();
    let mut seen: BTreeSet<usize> = serde_json::from_value(before).unwrap();
    seen.extend(golden.usize(&format!("{case}.y")));
    seen
}

fn numbers<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    to_vec(&tensor.clone().without_autodiff()).unwrap()
}

#[test]
fn losses_and_gradients_are_the_official_ones() {
    let golden = golden!("er_ace");
    let cases = golden.meta("hyper")["cases"].as_u64().unwrap();
    assert!(cases > 0);
    for (choice, device) in test_devices() {
        let slack = slack(choice);
        for case in (0..cases).map(|case| format!("c{case}")) {
            let check = |name: &str, found: &[f32], fraction| {
                golden.check(&format!("{case}.{name}"), found, fraction);
            };
            let after: Vec<usize> = seen(&golden, &case).into_iter().collect();
            assert_eq!(after, golden.usize(&format!("{case}.seen_after")), "{case}");

            let one = losses(&golden, &case, &device);
            check("logits_unmasked", &numbers(&one.logits), slack.forward);
            let kept = |logit: &f32| usize::from(*logit > -1e8);
            let kept: Vec<usize> = numbers(&one.masked).iter().map(kept).collect();
            assert_eq!(kept, golden.usize(&format!("{case}.mask")), "{case}");
            check("loss_stream", &numbers(&one.stream), slack.forward);
            check("loss_mem", &numbers(&one.memory), slack.forward);
            let total = one.stream + one.memory;
            check("loss_total", &numbers(&total), slack.forward);

            let grads = total.backward();
            for (name, input) in &one.inputs {
                let grad = numbers(&input.grad(&grads).unwrap());
                check(&format!("grad_total.{name}"), &grad, slack.gradient);
            }
            let stream = losses(&golden, &case, &device);
            let grads = stream.stream.backward();
            for (name, input) in &stream.inputs[..2] {
                let grad = numbers(&input.grad(&grads).unwrap());
                check(&format!("grad_stream.{name}"), &grad, slack.gradient);
            }
        }
    }
}
