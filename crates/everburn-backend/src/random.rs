//! Tensors drawn from a [`Key`], on the host: the same numbers on every device.

use burn::tensor::{Device, Shape, Tensor, TensorData};
use everburn_core::{Key, Rng};
use rand::RngExt as _;
use rand_distr::{Distribution, StandardNormal};

fn draw<const D: usize>(
    key: Key,
    shape: impl Into<Shape>,
    device: &Device,
    mut one: impl FnMut(&mut Rng) -> f32,
) -> Tensor<D> {
    let shape = shape.into();
    let mut rng = key.rng();
    let values: Vec<f32> = (0..shape.num_elements()).map(|_| one(&mut rng)).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Uniform in `[low, high)`.
pub fn uniform<const D: usize>(
    key: Key,
    shape: impl Into<Shape>,
    low: f32,
    high: f32,
    device: &Device,
) -> Tensor<D> {
    draw(key, shape, device, |rng| {
        low + (high - low) * rng.random::<f32>()
    })
}

/// Normal with mean 0.
pub fn normal<const D: usize>(
    key: Key,
    shape: impl Into<Shape>,
    std: f32,
    device: &Device,
) -> Tensor<D> {
    draw(key, shape, device, |rng| {
        let z: f32 = StandardNormal.sample(rng);
        std * z
    })
}

/// Normal with mean 0, drawn again while further than `cut` from it, as timm initialises.
pub fn truncated_normal<const D: usize>(
    key: Key,
    shape: impl Into<Shape>,
    std: f32,
    cut: f32,
    device: &Device,
) -> Tensor<D> {
    draw(key, shape, device, |rng| {
        loop {
            let z: f32 = StandardNormal.sample(rng);
            if (std * z).abs() <= cut {
                return std * z;
            }
        }
    })
}

/// PyTorch's default for linear and convolution weights and biases: uniform in ±1/√fan_in
/// (Kaiming uniform with a = √5).
pub fn torch_default<const D: usize>(
    key: Key,
    shape: impl Into<Shape>,
    fan_in: usize,
    device: &Device,
) -> Tensor<D> {
    let bound = 1.0 / (fan_in.max(1) as f32).sqrt();
    uniform(key, shape, -bound, bound, device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceChoice, to_vec};

    #[test]
    fn the_same_key_draws_the_same_and_another_key_another() {
        let device = DeviceChoice::CPU.open().unwrap();
        let key = Key::from_seed(3);
        let numbers = |key| to_vec(&normal::<1>(key, [100], 1.0, &device)).unwrap();
        assert_eq!(numbers(key), numbers(key));
        assert_ne!(numbers(key), numbers(key.at(1)));
    }

    #[test]
    fn moments_and_bounds_hold() {
        let device = DeviceChoice::CPU.open().unwrap();
        let key = Key::from_seed(5);
        let n = 20_000;
        let z = to_vec(&normal::<1>(key, [n], 2.0, &device)).unwrap();
        let mean = z.iter().sum::<f32>() / n as f32;
        let var = z.iter().map(|x| x * x).sum::<f32>() / n as f32;
        assert!(mean.abs() < 0.06 && (var - 4.0).abs() < 0.2, "{mean} {var}");
        let u = to_vec(&torch_default::<1>(key, [n], 4, &device)).unwrap();
        assert!(u.iter().all(|x| x.abs() <= 0.5) && u.iter().any(|x| x.abs() > 0.49));
        let t = to_vec(&truncated_normal::<1>(key, [n], 1.0, 1.5, &device)).unwrap();
        assert!(t.iter().all(|x| x.abs() <= 1.5) && t.iter().any(|x| x.abs() > 1.45));
    }
}
