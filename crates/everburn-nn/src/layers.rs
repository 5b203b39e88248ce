//! The layers that the backbones are made of, under PyTorch's parameter names.

use burn::module::{Module, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor};
use everburn_backend::{kernels, random};
use everburn_core::Key;

/// y = x·W + b. PyTorch stores the transpose, `[out, in]`; the weight loader turns it.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[in, out]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Linear {
    /// Weights as PyTorch draws them: uniform in ±1/√in.
    pub fn new(inputs: usize, outputs: usize, key: Key, device: &Device) -> Self {
        let weight = random::torch_default(key.child("weight"), [inputs, outputs], inputs, device);
        let bias = random::torch_default(key.child("bias"), [outputs], inputs, device);
        Self {
            weight: Param::from_tensor(weight),
            bias: Param::from_tensor(bias),
        }
    }

    /// Weights as timm draws them for a ViT: normal with deviation 0.02, biases 0.
    pub fn timm(inputs: usize, outputs: usize, key: Key, device: &Device) -> Self {
        let weight = random::truncated_normal(key, [inputs, outputs], 0.02, 2.0, device);
        Self {
            weight: Param::from_tensor(weight),
            bias: Param::from_tensor(Tensor::zeros([outputs], device)),
        }
    }

    /// `[.., in]` to `[.., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        kernels::linear(x, self.weight.val(), self.bias.val())
    }
}

/// Layer normalisation over the last side, with timm's ε = 1e-6 (burn's default is 1e-5).
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Scale, `[dim]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[dim]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f64,
}

impl LayerNorm {
    /// timm's epsilon.
    pub const EPSILON: f64 = 1e-6;
    /// PyTorch's own.
    pub const TORCH_EPSILON: f64 = 1e-5;

    /// Scale 1, shift 0.
    pub fn new(dim: usize, device: &Device) -> Self {
        Self {
            weight: Param::from_tensor(Tensor::ones([dim], device)),
            bias: Param::from_tensor(Tensor::zeros([dim], device)),
            epsilon: Self::EPSILON,
        }
    }

    /// With another ε.
    #[must_use]
    pub fn with_epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// ε, added to the variance.
    pub fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// Any `[.., dim]` to the same.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        kernels::layer_norm(x, self.weight.val(), self.bias.val(), self.epsilon)
    }
}

/// Two-dimensional cross-correlation.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in, height, width]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    padding: usize,
}

impl Conv2d {
    /// A square kernel without bias; weights as PyTorch draws them.
    pub fn new(
        channels: [usize; 2],
        kernel: usize,
        stride: usize,
        padding: usize,
        key: Key,
        device: &Device,
    ) -> Self {
        let [inputs, outputs] = channels;
        let fan_in = inputs * kernel * kernel;
        let shape = [outputs, inputs, kernel, kernel];
        Self {
            weight: Param::from_tensor(random::torch_default(key, shape, fan_in, device)),
            bias: None,
            stride,
            padding,
        }
    }

    /// The same with a bias.
    pub fn with_bias(mut self, key: Key, device: &Device) -> Self {
        let [outputs, inputs, height, width] = self.weight.dims();
        let bias = random::torch_default(key, [outputs], inputs * height * width, device);
        self.bias = Some(Param::from_tensor(bias));
        self
    }

    /// `[batch, in, height, width]` to `[batch, out, height', width']`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = kernels::conv2d(x, self.weight.val(), self.stride, self.padding);
        match &self.bias {
            Some(bias) => y + bias.val().reshape([1, -1, 1, 1]),
            None => y,
        }
    }
}

/// The mean and the unbiased variance of one batch, `[channels]` each.
#[derive(Clone, Debug)]
pub struct BatchStatistics {
    mean: Tensor<1>,
    variance: Tensor<1>,
}

/// Whether batch normalisation uses its running statistics or those of the batch.
///
/// burn's own layer decides by whether the tensors carry a tape; that would make "train mode without
/// gradient" and "gradient in evaluation mode" impossible to say.
pub enum Norm<'a> {
    /// Running statistics: the output for an image depends on that image alone.
    Eval,
    /// The batch's statistics, which are appended to the list in the order of the forward pass.
    Train(&'a mut Vec<BatchStatistics>),
}

/// Batch normalisation with PyTorch's meaning: ε = 1e-5; the running statistics move by a tenth of
/// the way, the variance among them being the unbiased one (burn's layer keeps the biased).
#[derive(Module, Debug)]
pub struct BatchNorm2d {
    /// Scale, `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[channels]`.
    pub bias: Param<Tensor<1>>,
    /// Running mean, `[channels]`; never has a gradient.
    pub running_mean: Param<Tensor<1>>,
    /// Running variance, `[channels]`; never has a gradient.
    pub running_var: Param<Tensor<1>>,
}

impl BatchNorm2d {
    /// Added to the variance.
    pub const EPSILON: f64 = 1e-5;
    /// Weight of the new statistic.
    pub const MOMENTUM: f64 = 0.1;

    /// Scale 1, shift 0, running mean 0, running variance 1.
    pub fn new(channels: usize, device: &Device) -> Self {
        let zeros = || Param::from_tensor(Tensor::zeros([channels], device));
        let ones = || Param::from_tensor(Tensor::ones([channels], device));
        Self {
            weight: ones(),
            bias: zeros(),
            running_mean: zeros(),
            running_var: ones(),
        }
    }

    /// `[batch, channels, height, width]` to the same.
    pub fn forward(&self, x: Tensor<4>, norm: &mut Norm<'_>) -> Tensor<4> {
        let (weight, bias) = (self.weight.val(), self.bias.val());
        match norm {
            Norm::Eval => {
                let (mean, variance) = (self.running_mean.val(), self.running_var.val());
                kernels::batch_norm(x, [weight, bias], [mean, variance], Self::EPSILON)
            }
            Norm::Train(statistics) => {
                let [batch, _, height, width] = x.dims();
                let n = (batch * height * width) as f64;
                let out = kernels::batch_norm_train(x, weight, bias, Self::EPSILON);
                statistics.push(BatchStatistics {
                    mean: out.mean,
                    variance: out.variance.mul_scalar(n / (n - 1.0).max(1.0)),
                });
                out.output
            }
        }
    }

    /// Moves the running statistics towards those of a batch.
    pub fn absorb(&mut self, batch: BatchStatistics) {
        let towards = |param: &Param<Tensor<1>>, new: Tensor<1>| {
            let old = param.val().without_autodiff();
            old.mul_scalar(1.0 - Self::MOMENTUM) + new.mul_scalar(Self::MOMENTUM)
        };
        self.running_mean = Param::from_tensor(towards(&self.running_mean, batch.mean));
        self.running_var = Param::from_tensor(towards(&self.running_var, batch.variance));
    }
}

/// Dropout of `[..]`: each value is 0 with probability `p` (0 to 1), and divided by 1 − p otherwise. The mask is drawn
/// from `key`; without one, as in evaluation, the values stay.
pub fn dropout<const D: usize>(x: Tensor<D>, p: f64, key: Option<Key>) -> Tensor<D> {
    let Some(key) = key.filter(|_| p > 0.0) else {
        return x;
    };
    if p >= 1.0 {
        return x.zeros_like();
    }
    let drawn: Tensor<D> = random::uniform(key, x.dims(), 0.0, 1.0, &x.device());
    let kept = drawn.greater_equal_elem(p).float();
    x * (kept / (1.0 - p))
}

/// Rows `[n, dim]` of length 1, as PyTorch's `normalize` makes them: divided by their length, or by 1e-12 if that is
/// more. A row of zeros stays one, and its gradient is divided by 1e-12.
pub fn unit_rows(rows: Tensor<2>) -> Tensor<2> {
    let squares = rows.clone().powi_scalar(2).sum_dim(1);
    rows / squares.clamp_min(1e-24).sqrt()
}

/// Whether a parameter path names something that training changes by gradient.
pub fn is_trainable(path: &str) -> bool {
    !path.ends_with("running_mean") && !path.ends_with("running_var")
}

/// Mean cross-entropy of `[batch, classes]` logits and `[batch]` class numbers.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [batch, _] = logits.dims();
    let log_probabilities = log_softmax(logits, 1);
    (log_probabilities.gather(1, targets.reshape([batch, 1])))
        .mean()
        .neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::TensorData;
    use everburn_backend::{DeviceChoice, to_vec};

    #[test]
    fn a_row_of_zeros_stays_one_and_its_gradient_is_a_number() {
        let device = DeviceChoice::CPU.open().unwrap();
        let rows = TensorData::new(vec![0.0_f32, 0.0, 3.0, 4.0], [2, 2]);
        let leaf = Tensor::<2>::from_data(rows, &device)
            .autodiff()
            .require_grad();
        let unit = unit_rows(leaf.clone());
        assert_eq!(
            to_vec(&unit.clone().without_autodiff()).unwrap(),
            [0.0, 0.0, 0.6, 0.8]
        );
        let gradient = to_vec(&leaf.grad(&unit.sum().backward()).unwrap()).unwrap();
        for (found, expected) in gradient.iter().zip([1e12, 1e12, 0.032, -0.024]) {
            assert!((found / expected - 1.0_f32).abs() < 1e-4, "{gradient:?}");
        }
    }
}
