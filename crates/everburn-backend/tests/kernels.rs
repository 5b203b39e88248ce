//! Each kernel beside burn's own operations: output and all gradients.
#![allow(clippy::unwrap_used)]

use burn::tensor::module as burns;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, activation};
use everburn_backend::{DeviceChoice, kernels, random, to_vec};
use everburn_core::Key;

fn cpu() -> Device {
    DeviceChoice::CPU.open().unwrap()
}

fn noise<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
    random::normal(Key::from_seed(7).child(name), shape, 1.0, &cpu())
}

/// Values and gradients of Σ y·r for noise r, on a tape behind all inputs and on one behind the last only,
/// and the values without a tape.
fn outcome<const D: usize>(
    inputs: &[Input],
    f: &dyn Fn(&[Input]) -> Tensor<D>,
) -> Vec<(String, Vec<f32>)> {
    let plain = f(inputs);
    let weights = noise("cotangent", plain.dims());
    let mut found = vec![("output".to_owned(), to_vec(&plain).unwrap())];
    for first in [0, inputs.len() - 1] {
        let mut tracked = inputs.to_vec();
        for input in &mut tracked[first..] {
            *input = input.clone().tracked();
        }
        let y = f(&tracked);
        found.push((
            "taped output".to_owned(),
            to_vec(&y.clone().without_autodiff()).unwrap(),
        ));
        let mut grads = (y * weights.clone()).sum().backward();
        for (index, input) in tracked.iter().enumerate().skip(first) {
            found.push((
                format!("gradient {index} on a tape from {first}"),
                input.grad(&mut grads),
            ));
        }
    }
    found
}

/// A tensor of one of the ranks that kernels take.
#[derive(Clone)]
enum Input {
    One(Tensor<1>),
    Two(Tensor<2>),
    Three(Tensor<3>),
    Four(Tensor<4>),
}

macro_rules! each {
    ($input:expr, $t:ident => $work:expr) => {
        match $input {
            Input::One($t) => $work,
            Input::Two($t) => $work,
            Input::Three($t) => $work,
            Input::Four($t) => $work,
        }
    };
}

impl Input {
    fn tracked(self) -> Self {
        match self {
            Self::One(t) => Self::One(t.autodiff().require_grad()),
            Self::Two(t) => Self::Two(t.autodiff().require_grad()),
            Self::Three(t) => Self::Three(t.autodiff().require_grad()),
            Self::Four(t) => Self::Four(t.autodiff().require_grad()),
        }
    }

    fn grad(&self, grads: &mut burn::tensor::Gradients) -> Vec<f32> {
        each!(self, t => to_vec(&t.grad_remove(grads).unwrap()).unwrap())
    }

    fn one(&self) -> Tensor<1> {
        let Self::One(t) = self else {
            panic!("another rank")
        };
        t.clone()
    }

    fn two(&self) -> Tensor<2> {
        let Self::Two(t) = self else {
            panic!("another rank")
        };
        t.clone()
    }

    fn three(&self) -> Tensor<3> {
        let Self::Three(t) = self else {
            panic!("another rank")
        };
        t.clone()
    }

    fn four(&self) -> Tensor<4> {
        let Self::Four(t) = self else {
            panic!("another rank")
        };
        t.clone()
    }
}

fn agree<const D: usize>(
    what: &str,
    inputs: &[Input],
    ours: &dyn Fn(&[Input]) -> Tensor<D>,
    theirs: &dyn Fn(&[Input]) -> Tensor<D>,
) {
    let (ours, theirs) = (outcome(inputs, ours), outcome(inputs, theirs));
    assert_eq!(ours.len(), theirs.len());
    for ((name, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        assert_eq!(ours.len(), theirs.len(), "{what}, {name}");
        let scale = theirs.iter().fold(1e-3_f32, |m, x| m.max(x.abs()));
        let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / scale);
        let worst = worst.fold(0.0, |m: f32, x| if x > m || x.is_nan() { x } else { m });
        assert!(worst < 2e-5, "{what}, {name}: {worst}");
    }
}

#[test]
fn gelu() {
    for shape in [[1, 1, 1], [2, 3, 5], [3, 65, 128], [2, 300, 100]] {
        let x = Input::Three(noise("x", shape) * 3.0);
        agree("gelu", &[x], &|i| kernels::gelu(i[0].three()), &|i| {
            activation::gelu(i[0].three())
        });
    }
    let turned = Input::Two(noise("x", [40, 7]).transpose());
    agree(
        "gelu of a view",
        &[turned],
        &|i| kernels::gelu(i[0].two()),
        &|i| activation::gelu(i[0].two()),
    );
}

#[test]
fn relu_and_add() {
    for shape in [[1, 1, 1, 1], [2, 3, 5, 7], [20, 20, 32, 32]] {
        let (a, b) = (
            Input::Four(noise("a", shape)),
            Input::Four(noise("b", shape)),
        );
        agree(
            "relu",
            std::slice::from_ref(&a),
            &|i| kernels::relu(i[0].four()),
            &|i| activation::relu(i[0].four()),
        );
        let theirs = |i: &[Input]| i[0].four() + i[1].four();
        agree(
            "add",
            &[a, b],
            &|i| kernels::add(i[0].four(), i[1].four()),
            &theirs,
        );
    }
    let x = Input::Two(noise("x", [3, 4]));
    agree(
        "twice the same",
        &[x],
        &|i| kernels::add(i[0].two(), i[0].two()),
        &|i| i[0].two() * 2.0,
    );
}

#[test]
fn layer_norm() {
    for [batch, tokens, dim] in [[1, 1, 4], [2, 3, 33], [4, 65, 128], [9, 65, 192]] {
        let inputs = [
            Input::Three(noise("x", [batch, tokens, dim]) * 2.0 + 0.5),
            Input::One(noise("w", [dim])),
            Input::One(noise("b", [dim])),
        ];
        agree(
            "layer norm",
            &inputs,
            &|i| kernels::layer_norm(i[0].three(), i[1].one(), i[2].one(), 1e-6),
            &|i| burns::layer_norm(i[0].three(), i[1].one(), Some(i[2].one()), 1e-6),
        );
    }
}

#[test]
fn linear() {
    for [batch, tokens, inputs, outputs] in [[1, 1, 3, 2], [2, 5, 7, 9], [4, 65, 128, 384]] {
        let tensors = [
            Input::Three(noise("x", [batch, tokens, inputs])),
            Input::Two(noise("w", [inputs, outputs])),
            Input::One(noise("b", [outputs])),
        ];
        agree(
            "linear",
            &tensors,
            &|i| kernels::linear(i[0].three(), i[1].two(), i[2].one()),
            &|i| burns::linear(i[0].three(), i[1].two(), Some(i[2].one())),
        );
    }
    // A batch of vectors, of which the input is a view and the weight a transpose.
    let tensors = [
        Input::Two(noise("x", [6, 5]).transpose()),
        Input::Two(noise("w", [4, 6]).transpose()),
        Input::One(noise("b", [4])),
    ];
    agree(
        "linear of views",
        &tensors,
        &|i| kernels::linear(i[0].two(), i[1].two(), i[2].one()),
        &|i| i[0].two().matmul(i[1].two()) + i[2].one().unsqueeze(),
    );
}

#[test]
fn self_attention() {
    for [batch, tokens, heads, d] in [[1, 1, 1, 1], [2, 5, 3, 4], [3, 65, 4, 32], [2, 17, 1, 64]] {
        let dim = heads * d;
        let theirs = |i: &[Input]| {
            let part = |first: usize| {
                let columns =
                    i[0].three()
                        .slice([0..batch, 0..tokens, first * dim..(first + 1) * dim]);
                columns.reshape([batch, tokens, heads, d]).swap_dims(1, 2)
            };
            let scores = part(0).matmul(part(1).swap_dims(2, 3)) / (d as f64).sqrt();
            let out = activation::softmax(scores, 3).matmul(part(2));
            out.swap_dims(1, 2).reshape([batch, tokens, dim])
        };
        let qkv = Input::Three(noise("qkv", [batch, tokens, 3 * dim]));
        agree(
            "attention",
            &[qkv],
            &|i| kernels::self_attention(i[0].three(), heads),
            &theirs,
        );
    }
}

#[test]
fn conv2d() {
    for ([batch, inputs, outputs, side], [kernel, stride, padding]) in [
        ([1, 1, 1, 1], [1, 1, 0]),
        ([2, 3, 4, 9], [3, 1, 1]),
        ([3, 4, 5, 8], [3, 2, 1]),
        ([3, 4, 5, 7], [3, 2, 1]),
        ([2, 4, 8, 8], [1, 2, 0]),
        ([2, 3, 6, 32], [4, 4, 0]),
        ([5, 20, 20, 32], [3, 1, 1]),
        ([2, 3, 7, 16], [3, 1, 0]),
        ([3, 4, 6, 13], [3, 1, 2]),
        ([70, 2, 3, 4], [3, 1, 1]),
        ([2, 2, 3, 5], [5, 3, 4]),
        ([2, 2, 3, 3], [2, 1, 2]),
    ] {
        let tensors = [
            Input::Four(noise("x", [batch, inputs, side, side])),
            Input::Four(noise("w", [outputs, inputs, kernel, kernel])),
        ];
        let options = || ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
        agree(
            &format!("{kernel}×{kernel}, stride {stride}, padding {padding}, of {side}×{side}"),
            &tensors,
            &|i| kernels::conv2d(i[0].four(), i[1].four(), stride, padding),
            &|i| burns::conv2d(i[0].four(), i[1].four(), None, options()),
        );
    }
}

#[test]
fn batch_norm() {
    for shape in [[1, 1, 1, 2], [2, 3, 4, 5], [20, 20, 32, 32]] {
        let channels = shape[1];
        let inputs = [
            Input::Four(noise("x", shape) * 2.0 + 0.5),
            Input::One(noise("w", [channels])),
            Input::One(noise("b", [channels])),
        ];
        agree(
            "batch norm of a batch",
            &inputs,
            &|i| kernels::batch_norm_train(i[0].four(), i[1].one(), i[2].one(), 1e-5).output,
            &|i| burns::batch_norm_train(i[0].four(), i[1].one(), i[2].one(), 1e-5).output,
        );
        let running = [
            noise("mean", [channels]),
            noise("variance", [channels]).abs() + 0.1,
        ];
        let [mean, variance] = running.clone();
        agree(
            "batch norm by running statistics",
            &inputs,
            &|i| kernels::batch_norm(i[0].four(), [i[1].one(), i[2].one()], running.clone(), 1e-5),
            &|i| {
                let (mean, variance) = (mean.clone(), variance.clone());
                burns::batch_norm(i[0].four(), i[1].one(), i[2].one(), mean, variance, 1e-5)
            },
        );
        let [x, w, b] = [
            inputs[0].four(),
            noise("w", [channels, 1]).reshape([1, -1, 1, 1]),
            noise("b", [1; 4]),
        ];
        let _ = (w, b);
        let (ours, theirs) = (
            kernels::batch_norm_train(x.clone(), inputs[1].one(), inputs[2].one(), 1e-5),
            burns::batch_norm_train(x, inputs[1].one(), inputs[2].one(), 1e-5),
        );
        for (ours, theirs) in [(ours.mean, theirs.mean), (ours.variance, theirs.variance)] {
            let (ours, theirs) = (to_vec(&ours).unwrap(), to_vec(&theirs).unwrap());
            assert!(
                ours.iter()
                    .zip(&theirs)
                    .all(|(a, b)| (a - b).abs() < 1e-5 * (1.0 + b.abs()))
            );
        }
    }
}

#[test]
fn a_tape_that_recomputes_activations_gets_burns_operations() {
    let device = cpu().autodiff().gradient_checkpointing();
    let x = Tensor::from_inner(noise("x", [2, 5, 12]));
    let gradient = |x: Tensor<3>| {
        let x = x.require_grad();
        let y = kernels::gelu(kernels::self_attention(x.clone(), 2));
        to_vec(&x.grad(&y.sum().backward()).unwrap()).unwrap()
    };
    let on_checkpoints = Tensor::from_data(noise::<3>("x", [2, 5, 12]).into_data(), &device);
    for (a, b) in gradient(x).iter().zip(gradient(on_checkpoints)) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn a_result_does_not_depend_on_the_number_of_cores() {
    let work = || {
        let x = noise("x", [9, 65, 192]).autodiff().require_grad();
        let (w, b) = (
            noise("w", [192, 576]).autodiff().require_grad(),
            noise("b", [576]).autodiff().require_grad(),
        );
        let y = kernels::self_attention(kernels::linear(x.clone(), w.clone(), b.clone()), 3);
        let scale = noise("s", [192]).autodiff().require_grad();
        let y = kernels::gelu(kernels::layer_norm(
            y,
            scale.clone(),
            noise("t", [192]),
            1e-6,
        ));
        let mut grads = y.powi_scalar(2).mean().backward();
        let mut found = to_vec(&x.grad_remove(&mut grads).unwrap()).unwrap();
        found.extend(to_vec(&w.grad_remove(&mut grads).unwrap()).unwrap());
        found.extend(to_vec(&b.grad_remove(&mut grads).unwrap()).unwrap());
        found.extend(to_vec(&scale.grad_remove(&mut grads).unwrap()).unwrap());
        found
    };
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
    };
    let one = pool(1).install(work);
    for threads in [2, 3, 8] {
        assert!(one == pool(threads).install(work), "{threads} threads");
    }
}
