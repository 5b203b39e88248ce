//! The official loss (pclucas14/AML `process_inc`, a cosine head), value by value.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;

use everburn_er_ace::asymmetric;
use everburn_nn::{Classifier, cross_entropy, targets};
use everburn_testkit::{golden, slack, test_devices};

#[test]
fn losses_and_gradients_are_the_official_ones() {
    let golden = golden!("er_ace");
    let cases = golden.meta("hyper")["cases"].as_u64().unwrap();
    assert!(cases > 0);
    for (choice, device) in test_devices() {
        let slack = slack(choice);
        for case in (0..cases).map(|case| format!("c{case}")) {
            let hyper = golden.meta("hyper")[&case].clone();
            let classifier = Classifier::Cosine {
                scale: hyper["scale"].as_f64().unwrap(),
            };
            let input = |name: &str| {
                golden
                    .tensor::<2>(&format!("{case}.{name}"), &device)
                    .autodiff()
                    .require_grad()
            };
            let (x, x_mem, w) = (input("x"), input("x_mem"), input("w"));
            let y = golden.usize(&format!("{case}.y"));
            let y_mem = golden.usize(&format!("{case}.y_mem"));
            let check = |name: &str, found: &[f32], fraction| {
                golden.check(&format!("{case}.{name}"), found, fraction);
            };
            let numbers = |tensor: burn::tensor::Tensor<2>| {
                everburn_backend::to_vec(&tensor.without_autodiff()).unwrap()
            };
            let scalar = |tensor: &burn::tensor::Tensor<1>| {
                everburn_backend::to_vec(&tensor.clone().without_autodiff()).unwrap()
            };

            // The classes seen so far, this batch's included; the largest and all above stay.
            let mut seen: BTreeSet<usize> =
                serde_json::from_value(hyper["seen_before"].clone()).unwrap();
            seen.extend(&y);
            let after: Vec<usize> = seen.iter().copied().collect();
            assert_eq!(after, golden.usize(&format!("{case}.seen_after")), "{case}");
            let newest = *seen.last().unwrap();

            let logits = classifier.logits(x.clone(), w.clone(), None);
            check("logits_unmasked", &numbers(logits.clone()), slack.forward);
            let masked = asymmetric(logits.clone(), &y, newest);
            let kept: Vec<usize> = numbers(masked.clone())
                .iter()
                .map(|z| usize::from(*z > -1e8))
                .collect();
            assert_eq!(kept, golden.usize(&format!("{case}.mask")), "{case}");

            let stream = cross_entropy(masked, targets(&y, &device));
            check("loss_stream", &scalar(&stream), slack.forward);
            let grads = stream.clone().backward();
            for (name, input) in [("x", &x), ("w", &w)] {
                let grad = input.grad(&grads).unwrap();
                check(
                    &format!("grad_stream.{name}"),
                    &numbers(grad),
                    slack.gradient,
                );
            }

            let recalled = classifier.logits(x_mem.clone(), w.clone(), None);
            let memory = cross_entropy(recalled, targets(&y_mem, &device));
            check("loss_mem", &scalar(&memory), slack.forward);
            let total = stream + memory;
            check("loss_total", &scalar(&total), slack.forward);
            let grads = total.backward();
            for (name, input) in [("x", &x), ("w", &w), ("x_mem", &x_mem)] {
                let grad = input.grad(&grads).unwrap();
                check(
                    &format!("grad_total.{name}"),
                    &numbers(grad),
                    slack.gradient,
                );
            }
        }
    }
}
