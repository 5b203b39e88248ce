//! The alignment of a head by itself, and its losses.
#![allow(clippy::unwrap_used, missing_docs)]

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use everburn_backend::{Device, DeviceChoice, to_vec};
use everburn_core::{ClassId, Key, Step};
use everburn_nn::{
    Alignment, AlignmentConfig, ClassGaussians, Classifier, Covariance, Head, Shrink,
    cross_entropy, targets,
};
use everburn_slca::{normalised_by_task, symmetric_cross_entropy};

fn cpu() -> Device {
    DeviceChoice::CPU.open().unwrap()
}

/// A head of these rows, without biases that matter.
fn head(rows: &[f32], dim: usize) -> Head {
    let classes = rows.len() / dim;
    let weight = TensorData::new(rows.to_vec(), [classes, dim]);
    Head {
        weight: Param::from_tensor(Tensor::from_data(weight, &cpu())),
        bias: Some(Param::from_tensor(Tensor::zeros([classes], &cpu()))),
    }
}

fn alignment(epochs: usize, rate: f64) -> Alignment {
    let mut alignment = Alignment::new(AlignmentConfig {
        epochs,
        samples_per_class: 16,
        rate,
        momentum: 0.9,
        weight_decay: 0.0,
    })
    .unwrap();
    alignment.begin(Key::from_seed(4));
    alignment
}

/// Gaussians of classes with the same features at other places.
fn gaussians(places: &[f32]) -> ClassGaussians {
    let mut gaussians = ClassGaussians::new(2, Covariance::Full, 1e-4).unwrap();
    for (class, place) in places.iter().enumerate() {
        let around: Vec<f32> = [0.3, -0.2, 0.1, 0.4, -0.4, -0.2]
            .iter()
            .map(|x| x + place)
            .collect();
        gaussians.add(&around, &[ClassId(class as u32); 3]).unwrap();
    }
    gaussians.close().unwrap();
    gaussians
}

/// The head after its alignment, and the losses.
fn aligned(
    mut alignment: Alignment,
    gaussians: &ClassGaussians,
    epochs: usize,
    mut head: Head,
) -> (Head, Vec<f32>) {
    let classes = gaussians.seen().len();
    let mut losses = Vec::new();
    for index in 0..epochs * classes {
        let step = Step {
            task: None,
            stage: 0,
            epoch: index / classes,
            epochs,
            index,
            steps: epochs * classes,
        };
        let none = |_: usize, _: &mut everburn_core::Rng| Shrink::NONE;
        let (features, labels) = alignment.samples(gaussians, &step, none, &cpu()).unwrap();
        let numbers: Vec<usize> = labels.iter().map(|class| class.0 as usize).collect();
        let batch = (features, targets(&numbers, &cpu()));
        let (next, loss) = alignment
            .step(&head, Classifier::Linear, batch, &step, cross_entropy)
            .unwrap();
        head = next;
        losses.extend(loss);
    }
    (head, losses)
}

fn weights(head: &Head) -> Vec<f32> {
    to_vec(&head.weight.val()).unwrap()
}

#[test]
fn alignment_puts_right_a_head_that_prefers_one_class() {
    // The second row is five times as long: nearly everything is taken for the second class.
    let biased = head(&[-0.1, -0.1, 0.5, 0.5], 2);
    let gaussians = gaussians(&[1.0, 2.0]);
    let right = |head: &Head| {
        let device = cpu();
        let features = [[1.0, 1.0], [2.0, 2.0]].concat();
        let features = Tensor::from_data(TensorData::new(features, [2, 2]), &device);
        let logits = to_vec(&head.forward(features, Classifier::Linear)).unwrap();
        [logits[0] > logits[1], logits[3] > logits[2]]
    };
    assert_eq!(right(&biased), [false, true]);
    let (after, losses) = aligned(alignment(40, 0.2), &gaussians, 40, biased);
    assert_eq!(right(&after), [true, true]);
    assert!(losses[losses.len() - 1] < 0.5 * losses[0], "{losses:?}");
}

#[test]
fn with_equal_gaussians_the_loss_tends_to_that_of_guessing() {
    let classes = [1.0; 4];
    let rows = [3.0, 0.0, 0.0, -2.0, 1.0, 1.0, 0.5, 0.0];
    let (_, losses) = aligned(alignment(40, 0.1), &gaussians(&classes), 40, head(&rows, 2));
    let last = &losses[losses.len() - 20..];
    let last = last.iter().sum::<f32>() / 20.0;
    assert!((last - 4.0_f32.ln()).abs() < 0.05, "{last}");
}

#[test]
fn an_epoch_has_as_many_samples_of_each_class_and_the_next_one_has_others() {
    let gaussians = gaussians(&[0.0, 1.0, 2.0]);
    let mut alignment = alignment(2, 0.1);
    let mut epoch = |epoch: usize| {
        let mut rows = Vec::new();
        let mut counts = [0; 3];
        for number in 0..3 {
            let step = Step {
                task: None,
                stage: 2,
                epoch,
                epochs: 2,
                index: epoch * 3 + number,
                steps: 6,
            };
            let none = |_: usize, _: &mut everburn_core::Rng| Shrink::NONE;
            let (features, labels) = alignment.samples(&gaussians, &step, none, &cpu()).unwrap();
            assert_eq!(features.dims(), [16, 2]);
            let mixed = labels.iter().any(|label| *label != labels[0]);
            assert!(mixed, "batches are shuffled");
            labels
                .iter()
                .for_each(|label| counts[label.0 as usize] += 1);
            rows.extend(to_vec(&features).unwrap());
        }
        assert_eq!(counts, [16; 3]);
        rows
    };
    let (first, second) = (epoch(0), epoch(1));
    assert!(first.iter().zip(&second).all(|(a, b)| a != b));
    assert_eq!(first, epoch(0), "the place decides, not what came before");
}

#[test]
fn logits_are_divided_by_the_mean_of_the_tasks_norms() {
    let device = cpu();
    let of = |logits: [f32; 4], tasks: &[usize]| {
        let logits = Tensor::<2>::from_data([logits], &device);
        to_vec(&normalised_by_task(logits, tasks, 0.1)).unwrap()
    };
    let near = |found: Vec<f32>, expected: [f32; 4]| {
        let pairs = found.iter().zip(expected);
        assert!(
            pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-4),
            "{found:?}"
        );
    };
    // Norms 5 and 5, not that of all four.
    near(
        of([3.0, 4.0, 0.0, 5.0], &[0, 0, 1, 1]),
        [6.0, 8.0, 0.0, 10.0],
    );
    // Whatever the tasks are called, and in whatever order their classes stand.
    near(
        of([3.0, 0.0, 4.0, 5.0], &[7, 9, 7, 9]),
        [6.0, 0.0, 8.0, 10.0],
    );
    near(
        of([300.0, 400.0, 0.0, 500.0], &[0, 0, 1, 1]),
        [6.0, 8.0, 0.0, 10.0],
    );
    // Norms 5 and 15.
    near(
        of([3.0, 4.0, 9.0, 12.0], &[0, 0, 1, 1]),
        [3.0, 4.0, 9.0, 12.0],
    );
    // The gradient goes through the norm: along the logits themselves there is none.
    let logits = Tensor::<2>::from_data([[3.0, 4.0, 0.0, 5.0]], &device);
    let logits = logits.autodiff().require_grad();
    let weights = Tensor::<2>::from_data([[1.0, -2.0, 0.5, 3.0]], &device);
    let loss = (normalised_by_task(logits.clone(), &[0, 0, 1, 1], 0.1) * weights.autodiff()).sum();
    let grad = to_vec(&logits.grad(&loss.backward()).unwrap()).unwrap();
    let along: f32 = grad
        .iter()
        .zip([3.0, 4.0, 0.0, 5.0])
        .map(|(g, l)| g * l)
        .sum();
    assert!(
        along.abs() < 1e-3 && grad.iter().any(|g| g.abs() > 0.1),
        "{grad:?}"
    );
    // A task whose logits are all 0.
    let logits = Tensor::<2>::from_data([[0.0, 0.0, 1.0, 2.0]], &device);
    let logits = logits.autodiff().require_grad();
    let loss = normalised_by_task(logits.clone(), &[0, 0, 1, 1], 0.1);
    let loss = cross_entropy(loss, targets(&[0], &device));
    let grad = to_vec(&logits.grad(&loss.backward()).unwrap()).unwrap();
    assert!(grad.iter().all(|g| g.is_finite()), "{grad:?}");
}

#[test]
fn the_reverse_cross_entropy_is_bounded() {
    let device = cpu();
    let of = |logits: [f32; 3], a, b| {
        let logits = Tensor::<2>::from_data([logits], &device);
        to_vec(&symmetric_cross_entropy(
            logits,
            targets(&[1], &device),
            a,
            b,
        ))
        .unwrap()[0]
    };
    assert!(of([-50.0, 50.0, -50.0], 0.0, 1.0) < 1e-5, "sure and right");
    let wrong = of([50.0, -50.0, -50.0], 0.0, 1.0);
    assert!((wrong - 9.2103).abs() < 1e-3, "sure and wrong: {wrong}");
    let halfway = of([0.0, 0.0, -50.0], 0.0, 1.0);
    assert!((halfway - 9.2103 / 2.0).abs() < 1e-3, "{halfway}");
    let both = of([0.3, -0.2, 0.7], 0.5, 0.25);
    let apart = 0.5 * of([0.3, -0.2, 0.7], 1.0, 0.0) + 0.25 * of([0.3, -0.2, 0.7], 0.0, 1.0);
    assert!((both - apart).abs() < 1e-6);
}

#[test]
fn alignment_of_one_class_is_a_no_op() {
    let (after, losses) = aligned(
        alignment(3, 0.1),
        &gaussians(&[1.0]),
        3,
        head(&[0.5, -2.0], 2),
    );
    assert_eq!(weights(&after), [0.5, -2.0]);
    assert!(losses.iter().all(|loss| *loss == 0.0));
}
