//! What the tests of OnPro share.
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Tensor};
use everburn_backend::{DeviceChoice, to_vec};
use everburn_onpro::Adaptive;

pub(crate) fn device() -> Device {
    DeviceChoice::CPU.open().unwrap()
}

/// A loss as a number.
pub(crate) fn number_of(loss: Tensor<1>) -> f64 {
    f64::from(to_vec(&loss).unwrap()[0])
}

pub(crate) fn near(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() < tolerance, "{found} {expected}");
}

/// Feedback with the published shares.
pub(crate) fn adaptive(base_rate: f64, mixing: f64) -> Adaptive {
    Adaptive {
        base_rate,
        mixing,
        most: 0.6,
        alpha: 0.4,
    }
}
