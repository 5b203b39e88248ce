//! What the tests of everburn's crates share. Not published; test code, so it panics.
#![allow(clippy::unwrap_used)]

pub mod drive;
pub mod pet;

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use everburn_backend::{DeviceChoice, DeviceKind};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The folder of golden cases: `EVERBURN_GOLDEN_DIR`, or the calling crate's own copy.
pub fn golden_path(manifest_dir: &str, file: &str) -> PathBuf {
    let folder = std::env::var_os("EVERBURN_GOLDEN_DIR").map(PathBuf::from);
    folder
        .unwrap_or_else(|| PathBuf::from(manifest_dir).join("tests/golden"))
        .join(file)
}

/// One `.safetensors` file of golden numbers.
pub struct Golden {
    bytes: Vec<u8>,
    name: String,
}

/// Reads a golden case of the calling crate.
#[macro_export]
macro_rules! golden {
    ($case:literal) => {
        $crate::Golden::open(env!("CARGO_MANIFEST_DIR"), $case)
    };
}

impl Golden {
    /// Reads `case.safetensors`.
    pub fn open(manifest_dir: &str, case: &str) -> Self {
        Self::read(golden_path(manifest_dir, &format!("{case}.safetensors")))
    }

    /// Reads a file of such numbers that is in no folder of golden cases.
    pub fn read(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        Self { bytes, name }
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    /// All bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let file = self.file();
        let mut names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// A metadata entry: `hyper`, `sizes`, `tolerance_f32`, …
    pub fn meta(&self, key: &str) -> Value {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).unwrap();
        let map = metadata.metadata().clone().unwrap();
        serde_json::from_str(&map[key]).unwrap()
    }

    /// A size.
    pub fn size(&self, key: &str) -> usize {
        self.meta("sizes")[key]
            .as_u64()
            .unwrap_or_else(|| panic!("size {key}")) as usize
    }

    /// A tensor's sides.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.view(name).0
    }

    /// A tensor's numbers, whatever their type.
    pub fn f64(&self, name: &str) -> Vec<f64> {
        self.view(name).1
    }

    /// A tensor's numbers.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.f64(name).into_iter().map(|x| x as f32).collect()
    }

    /// A tensor's integers.
    pub fn usize(&self, name: &str) -> Vec<usize> {
        self.f64(name).into_iter().map(|x| x as usize).collect()
    }

    fn view(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let file = self.file();
        let view = file
            .tensor(name)
            .unwrap_or_else(|e| panic!("{}: {name}: {e}", self.name));
        let data = view.data();
        let numbers = match view.dtype() {
            Dtype::F64 => data
                .as_chunks()
                .0
                .iter()
                .map(|b| f64::from_le_bytes(*b))
                .collect(),
            Dtype::F32 => data
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b).into())
                .collect(),
            Dtype::I64 => data
                .as_chunks()
                .0
                .iter()
                .map(|b| i64::from_le_bytes(*b) as f64)
                .collect(),
            other => panic!("{name}: {other:?}"),
        };
        (view.shape().to_vec(), numbers)
    }

    /// A tensor on a device.
    pub fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        Tensor::from_data(TensorData::new(self.f32(name), self.shape(name)), device)
    }

    /// An integer tensor on a device.
    pub fn int<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D, Int> {
        let values: Vec<i64> = self.f64(name).into_iter().map(|x| x as i64).collect();
        Tensor::from_data(TensorData::new(values, self.shape(name)), device)
    }

    /// Compares with the expected numbers under a name, within the file's tolerance for 32-bit floats,
    /// or a fraction of the largest expected value if that is wider.
    pub fn check(&self, name: &str, found: &[f32], fraction: f64) {
        let expected = self.f64(name);
        assert_eq!(found.len(), expected.len(), "{}: {name}: length", self.name);
        let largest = expected.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
        let stated = self.meta("tolerance_f32")[name]
            .as_f64()
            .unwrap_or(2e-6 * largest);
        let tolerance = stated.max(fraction * largest);
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let difference = (f64::from(*found) - expected).abs();
            assert!(
                difference <= tolerance,
                "{}: {name}[{index}]: found {found}, expected {expected}, differs by {difference:e} \
                 > {tolerance:e} (largest {largest:e})",
                self.name
            );
        }
    }

    /// [`check`](Self::check) for row `row` of a tensor of rows, whose tolerance is the whole tensor's.
    pub fn check_row(&self, name: &str, row: usize, found: &[f32], fraction: f64) {
        let mut whole = self.f32(name);
        let rows = self.shape(name)[0];
        assert_eq!(
            found.len() * rows,
            whole.len(),
            "{}: {name}: length",
            self.name
        );
        whole[row * found.len()..(row + 1) * found.len()].copy_from_slice(found);
        self.check(name, &whole, fraction);
    }

    /// [`check`](Self::check) for a tensor.
    pub fn check_tensor<const D: usize>(&self, name: &str, found: Tensor<D>, fraction: f64) {
        assert_eq!(
            found.dims().to_vec(),
            self.shape(name),
            "{}: {name}: shape",
            self.name
        );
        self.check(
            name,
            &everburn_backend::to_vec(&found.without_autodiff()).unwrap(),
            fraction,
        );
    }
}

/// The devices on which tests run; see [`everburn_conformance::test_devices`].
pub fn test_devices() -> Vec<(DeviceChoice, Device)> {
    everburn_conformance::test_devices().unwrap()
}

/// By how much a device may be off, beside the golden file's own tolerance, as a fraction of the
/// largest value: burn's GELU has the tanh form's gradient everywhere but on flex, and GPUs round
/// `exp` and `sqrt` more coarsely.
pub struct Slack {
    /// For results of a forward pass.
    pub forward: f64,
    /// For gradients.
    pub gradient: f64,
}

/// The slack of a device.
pub fn slack(choice: DeviceChoice) -> Slack {
    match choice.kind {
        DeviceKind::Cpu => Slack {
            forward: 0.0,
            gradient: 0.0,
        },
        _ => Slack {
            forward: 1e-5,
            gradient: 2e-3,
        },
    }
}

/// The examples of the repository's README are tests.
#[doc = include_str!("../../../README.md")]
#[cfg(doctest)]
struct Readme;
