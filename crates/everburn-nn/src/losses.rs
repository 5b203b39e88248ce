//! Losses that are read late, and must be numbers.

use burn::tensor::{Device, Tensor};
use everburn_backend::{is_asynchronous, to_vec};
use everburn_core::profile::{Part, span};
use everburn_core::{Error, Result};

/// Steps after which the losses of an asynchronous device are read.
///
/// Reading one waits for all that was asked of the device before: the processor would prepare nothing
/// while the device computes, and the device compute nothing while the processor prepares.
const READ_EVERY: usize = 32;

/// A loss, if it is a number: a diverged network would go on in silence.
pub(crate) fn check_loss(training: impl Into<String>, loss: f32) -> Result<f32> {
    if loss.is_finite() {
        return Ok(loss);
    }
    Err(Error::other(
        training,
        format!("the loss is {loss}: it has diverged; try a smaller learning rate"),
    ))
}

/// Losses that an asynchronous device still holds.
#[derive(Default)]
pub(crate) struct Losses(Vec<Tensor<1>>);

impl Losses {
    /// Takes in the loss of a step. Returns it; on a device that works on its own, every so many steps the mean of
    /// the losses since, and nothing otherwise.
    pub(crate) fn push(&mut self, loss: Tensor<1>, device: &Device) -> Result<Option<f32>> {
        self.0.push(loss.without_autodiff());
        if is_asynchronous(device) && self.0.len() < READ_EVERY {
            return Ok(None);
        }
        let unread = std::mem::take(&mut self.0);
        mean(&unread).map(Some)
    }

    /// Checks those not yet read, so that no network that has diverged is saved or asked.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        check_loss("training", mean(&self.0)?).map(|_| ())
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// The mean of losses, read from the device at once.
fn mean(losses: &[Tensor<1>]) -> Result<f32> {
    let _span = span(Part::Idle);
    let values = to_vec(&Tensor::cat(losses.to_vec(), 0))?;
    Ok(values.iter().sum::<f32>() / values.len().max(1) as f32)
}
