//! What the benchmarks of everburn's hot paths share. Not published; bench code, so it panics.

use everburn::backend::{Device, DeviceChoice, use_this_thread};
use everburn::core::{ClassId, ImageShape, Images};
use everburn::data::{Dataset, Preprocess, load_digits};
use everburn::nn::{Backbone, Frozen};

/// As in the command line: pages of freed tensors are kept.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The size of image that the embedded backbone takes.
pub const SHAPE: ImageShape = ImageShape::new(32, 32, 3);

/// The device to measure: `EVERBURN_BENCH_DEVICE`, or else the CPU, with this thread among those that compute.
///
/// # Panics
/// If it cannot be opened.
pub fn device() -> Device {
    use_this_thread();
    let choice = match std::env::var("EVERBURN_BENCH_DEVICE") {
        Ok(name) => name.parse().unwrap(),
        Err(_) => DeviceChoice::CPU,
    };
    choice.open().unwrap()
}

/// The embedded ViT with an empty feature cache.
///
/// # Panics
/// If the crate was built from a damaged file.
pub fn embedded(device: &Device) -> Frozen {
    Frozen::new(Backbone::embedded(device).unwrap(), device)
}

/// `count` different images of noise.
///
/// # Panics
/// If the shape has a side of zero.
pub fn noise(shape: ImageShape, count: usize) -> Images {
    let byte = |i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8;
    let bytes = u32::try_from(count * shape.bytes()).unwrap();
    Images::new(shape, (0..bytes).map(byte).collect()).unwrap()
}

/// `count` labels that go round `classes` classes.
pub fn labels(count: usize, classes: u32) -> Vec<ClassId> {
    (0..classes).map(ClassId).cycle().take(count).collect()
}

/// The digits, as the main job has them.
///
/// # Panics
/// If the crate was built from a damaged file.
pub fn digits() -> Dataset {
    load_digits(&"resize-32".parse::<Preprocess>().unwrap()).unwrap()
}
