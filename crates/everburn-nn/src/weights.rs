//! Weight files by their original names: safetensors and PyTorch `.pth`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use everburn_core::{Error, Result};
use pytorch_reader::PytorchReader;
use safetensors::{Dtype, SafeTensors};

/// A tensor as a file holds it, in 32-bit floats.
#[derive(Clone, Debug, PartialEq)]
pub struct RawTensor {
    /// Its sides.
    pub shape: Vec<usize>,
    /// Its numbers, row-major.
    pub values: Vec<f32>,
}

/// The tensors of a weight file.
#[derive(Clone, Debug)]
pub struct WeightFile {
    source: String,
    hash: String,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, RawTensor>,
}

impl WeightFile {
    /// Reads a `.safetensors`, `.pth`, `.pt` or `.bin` file.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or holds numbers of a kind that are no weights.
    pub fn open(path: &Path) -> Result<Self> {
        let source = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| Error::other(&source, error))?;
        let extension = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        match extension {
            "safetensors" => Self::from_safetensors(&source, &bytes),
            "pth" | "pt" | "bin" => Self::from_pytorch(&source, &bytes, path),
            other => Err(Error::input(
                source,
                format!("a file ending in `.{other}`"),
                "`.safetensors`, `.pth`, `.pt` or `.bin`",
            )),
        }
    }

    /// A file without tensors, to be filled by [`replace`](Self::replace).
    pub fn empty(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            hash: String::new(),
            metadata: BTreeMap::new(),
            tensors: BTreeMap::new(),
        }
    }

    /// Reads safetensors from memory; `source` is what errors call it.
    ///
    /// # Errors
    /// If the bytes are damaged or hold numbers of a kind that are no weights.
    pub fn from_safetensors(source: &str, bytes: &[u8]) -> Result<Self> {
        let damaged = |error: safetensors::SafeTensorError| {
            Error::input(source, format!("{error:?}"), "a complete safetensors file")
        };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            let Some(values) = decode(view.dtype(), view.data()) else {
                let found = format!("{:?}", view.dtype());
                return Err(Error::input(
                    format!("{source}, tensor `{name}`"),
                    found,
                    KINDS,
                ));
            };
            let shape = view.shape().to_vec();
            tensors.insert(name, RawTensor { shape, values });
        }
        let metadata = header.metadata().clone().unwrap_or_default();
        Ok(Self {
            source: source.to_owned(),
            hash: blake3::hash(bytes).to_hex().to_string(),
            metadata: metadata.into_iter().collect(),
            tensors,
        })
    }

    fn from_pytorch(source: &str, bytes: &[u8], path: &Path) -> Result<Self> {
        let damaged =
            |error: &dyn fmt::Display| Error::input(source, error, "a complete PyTorch state_dict");
        let mut reader = PytorchReader::new(path).map_err(|error| damaged(&error))?;
        // Checkpoints of training scripts nest the weights.
        for key in ["state_dict", "model"] {
            let below = format!("{key}.");
            let nested = reader.keys().iter().all(|name| name.starts_with(&below));
            if nested && let Ok(inner) = PytorchReader::with_top_level_key(path, key) {
                reader = inner;
            }
        }
        let mut tensors = BTreeMap::new();
        let sorted: BTreeMap<_, _> = reader.tensors().iter().collect();
        for (name, tensor) in sorted {
            let data = tensor.read().map_err(|error| damaged(&error))?;
            let dtype = match tensor.dtype() {
                pytorch_reader::DType::F32 => Dtype::F32,
                pytorch_reader::DType::F64 => Dtype::F64,
                pytorch_reader::DType::F16 => Dtype::F16,
                pytorch_reader::DType::BF16 => Dtype::BF16,
                pytorch_reader::DType::I64 => Dtype::I64,
                other => {
                    let what = format!("{source}, tensor `{name}`");
                    return Err(Error::input(what, format!("{other:?}"), KINDS));
                }
            };
            let values = decode(dtype, &data).ok_or_else(|| {
                Error::input(format!("{source}, tensor `{name}`"), "damage", KINDS)
            })?;
            let shape = tensor.shape().to_vec();
            tensors.insert(name.clone(), RawTensor { shape, values });
        }
        if tensors.is_empty() {
            return Err(damaged(&"no tensor"));
        }
        Ok(Self {
            source: source.to_owned(),
            hash: blake3::hash(bytes).to_hex().to_string(),
            metadata: BTreeMap::new(),
            tensors,
        })
    }

    /// BLAKE3 hash of the file, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What errors call the file.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What the file says about itself.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, RawTensor> {
        &self.tensors
    }

    /// Replaces a tensor, for one that has to be fitted before it is loaded.
    pub fn replace(&mut self, name: &str, tensor: RawTensor) {
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// Takes a tensor out.
    pub fn remove(&mut self, name: &str) -> Option<RawTensor> {
        self.tensors.remove(name)
    }

    /// Puts the tensors into the parameters of the same names, turning linear weights from
    /// PyTorch's `[out, in]` to burn's `[in, out]`.
    ///
    /// # Errors
    /// With the complete report, if a parameter gets no tensor or one of another shape.
    pub fn load_into<M: Module>(&self, module: M) -> Result<(M, LoadReport)> {
        let mut loader = Loader {
            path: Vec::new(),
            containers: Vec::new(),
            file: self,
            report: LoadReport::default(),
        };
        let module = module.map(&mut loader);
        let mut report = loader.report;
        report.unexpected = (self.tensors.keys())
            .filter(|name| !report.loaded.contains(name) && !report.known_misshaped(name))
            .filter(|name| !name.ends_with("num_batches_tracked"))
            .cloned()
            .collect();
        if report.missing.is_empty() && report.misshaped.is_empty() {
            Ok((module, report))
        } else {
            Err(Error::input(
                format!("weights in {}", self.source),
                report,
                "the tensors of the chosen architecture",
            ))
        }
    }
}

const KINDS: &str = "f32, f64, f16, bf16 or i64 numbers";

fn decode(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    fn numbers<const N: usize>(data: &[u8], one: impl Fn([u8; N]) -> f32) -> Option<Vec<f32>> {
        let (chunks, rest) = data.as_chunks::<N>();
        rest.is_empty()
            .then(|| chunks.iter().map(|bytes| one(*bytes)).collect())
    }
    match dtype {
        Dtype::F32 => numbers(data, f32::from_le_bytes),
        Dtype::F64 => numbers(data, |b| f64::from_le_bytes(b) as f32),
        Dtype::F16 => numbers(data, |b| half_to_f32(u16::from_le_bytes(b))),
        Dtype::BF16 => numbers(data, |b| {
            f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)
        }),
        Dtype::I64 => numbers(data, |b| i64::from_le_bytes(b) as f32),
        _ => None,
    }
}

fn half_to_f32(bits: u16) -> f32 {
    burn::tensor::f16::from_bits(bits).to_f32()
}

/// What became of each tensor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Parameters that got their tensor.
    pub loaded: Vec<String>,
    /// Parameters for which the file has no tensor.
    pub missing: Vec<String>,
    /// Tensors of the file that no parameter asked for, such as a removed head.
    pub unexpected: Vec<String>,
    /// Parameters whose tensor has another shape.
    pub misshaped: Vec<Misshaped>,
}

/// A tensor of another shape than its parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misshaped {
    /// The parameter.
    pub name: String,
    /// The shape in the file.
    pub found: Vec<usize>,
    /// The shape that the architecture has, in the file's layout.
    pub expected: Vec<usize>,
}

impl LoadReport {
    fn known_misshaped(&self, name: &str) -> bool {
        self.misshaped.iter().any(|m| m.name == name)
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list(names: &[String]) -> String {
            const SHOWN: usize = 6;
            let more = names.len().saturating_sub(SHOWN);
            let shown = names[..names.len().min(SHOWN)].join(", ");
            let rest = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            format!("{} ({shown}{rest})", names.len())
        }
        write!(f, "{} loaded", self.loaded.len())?;
        if !self.missing.is_empty() {
            write!(f, "; missing: {}", list(&self.missing))?;
        }
        if !self.misshaped.is_empty() {
            let shapes = self.misshaped.iter();
            let shapes: Vec<String> = shapes
                .map(|m| format!("{} is {:?} and should be {:?}", m.name, m.found, m.expected))
                .collect();
            write!(f, "; of another shape: {}", list(&shapes))?;
        }
        if !self.unexpected.is_empty() {
            write!(f, "; unexpected: {}", list(&self.unexpected))?;
        }
        Ok(())
    }
}

struct Loader<'a> {
    path: Vec<String>,
    containers: Vec<String>,
    file: &'a WeightFile,
    report: LoadReport,
}

impl Loader<'_> {
    fn find<const D: usize>(&mut self, old: &Tensor<D>) -> Option<Tensor<D>> {
        let name = self.path.join(".");
        let Some(raw) = self.file.tensors.get(&name) else {
            self.report.missing.push(name);
            return None;
        };
        // PyTorch's linear weights are [out, in].
        let turned = D == 2 && self.containers.last().is_some_and(|c| c == "Struct:Linear");
        let mut expected = old.dims().to_vec();
        if turned {
            expected.reverse();
        }
        if raw.shape != expected {
            self.report.misshaped.push(Misshaped {
                name,
                found: raw.shape.clone(),
                expected,
            });
            return None;
        }
        let data = TensorData::new(raw.values.clone(), expected);
        let tensor = Tensor::<D>::from_data(data, &old.device());
        self.report.loaded.push(name);
        // A reshape after the turn makes the memory row-major, which is what is saved and restored.
        Some(if turned {
            tensor.swap_dims(0, 1)
        } else {
            tensor
        })
    }
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push(name.to_owned());
        self.containers.push(container.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, old, mapper) = param.consume();
        let new = self.find(&old).unwrap_or(old);
        Param::from_mapped_value(id, new, mapper)
    }
}
