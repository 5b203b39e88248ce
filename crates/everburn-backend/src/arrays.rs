use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::{Device, Tensor, TensorData};
use everburn_core::{Array, Error, Result, State, Values};

static READS: AtomicU64 = AtomicU64::new(0);

/// How often this process has read a tensor back from a device: each time, the processor waits for all
/// that was asked of the device before. No learner's step may do so.
pub fn reads() -> u64 {
    READS.load(Ordering::Relaxed)
}

/// The numbers of a tensor, row-major.
///
/// # Errors
/// If the device fails to hand them over.
pub fn to_vec<const D: usize>(tensor: &Tensor<D>) -> Result<Vec<f32>> {
    READS.fetch_add(1, Ordering::Relaxed);
    tensor
        .clone()
        .try_into_vec_as::<f32>()
        .map_err(|error| Error::other("reading a tensor from the device", error))
}

/// A tensor as an array for a saved state.
///
/// # Errors
/// If the device fails to hand it over.
pub fn to_array<const D: usize>(tensor: &Tensor<D>) -> Result<Array> {
    Ok(Array::f32(tensor.dims().to_vec(), to_vec(tensor)?))
}

/// A tensor from an array of 32-bit floats with `D` sides.
///
/// # Errors
/// If the array is of another type or shape.
pub fn from_array<const D: usize>(name: &str, array: &Array, device: &Device) -> Result<Tensor<D>> {
    let count: usize = array.shape.iter().product();
    match &array.values {
        Values::F32(values) if array.shape.len() == D && count == values.len() => {
            let data = TensorData::new(values.clone(), array.shape.clone());
            Ok(Tensor::from_data(data, device))
        }
        other => Err(Error::state(
            name,
            format!("{} {:?}", other.dtype(), array.shape),
            format!("f32 with {D} sides"),
        )),
    }
}

/// The tensor that a state holds under a name.
///
/// # Errors
/// If it is missing, or of another type or shape.
pub fn from_state<const D: usize>(state: &State, name: &str, device: &Device) -> Result<Tensor<D>> {
    from_array(name, state.array(name)?, device)
}
