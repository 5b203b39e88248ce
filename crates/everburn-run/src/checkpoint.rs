use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use everburn_core::{Array, Error, Result, State, Values};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::write_atomically;

/// A run between two steps: where it stands, and the state of its learner.
///
/// On disk: the eight bytes `EVERBRN2`, the BLAKE3 hash of what follows, and a safetensors file with
/// the learner's arrays, its small values and the cursor in the header's metadata. Equal checkpoints
/// are equal bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    cursor: Value,
    learner: State,
}

const MAGIC: &[u8; 8] = b"EVERBRN2";
/// The entry of the header's metadata.
const ENTRY: &str = "run";
const HEAD: usize = MAGIC.len() + blake3::OUT_LEN;

impl Checkpoint {
    pub(crate) fn new(cursor: &impl Serialize, learner: State) -> Result<Self> {
        let cursor = serde_json::to_value(cursor).map_err(|e| Error::other("a checkpoint", e))?;
        Ok(Self { cursor, learner })
    }

    /// The state of a learner that no runner drives, to be kept in a file.
    pub fn of(learner: State) -> Self {
        Self {
            cursor: Value::Null,
            learner,
        }
    }

    pub(crate) fn cursor<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.cursor).map_err(|e| Error::state("cursor", "another shape", e))
    }

    /// The learner's state.
    pub fn learner(&self) -> &State {
        &self.learner
    }

    /// The checkpoint as bytes.
    ///
    /// # Errors
    /// If an array's shape does not agree with its length.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let failed = |e: &dyn std::fmt::Display| Error::other("writing a checkpoint", e);
        let bytes: BTreeMap<&str, Vec<u8>> = self
            .learner
            .arrays
            .iter()
            .map(|(name, a)| (&name[..], raw(&a.values)))
            .collect();
        let mut views = BTreeMap::new();
        for (name, array) in &self.learner.arrays {
            let (shape, data) = (array.shape.clone(), &bytes[&name[..]]);
            let view = TensorView::new(dtype(&array.values), shape, data)
                .map_err(|e| failed(&format!("`{name}`: {e:?}")))?;
            views.insert(name.clone(), view);
        }
        // One entry: several would stand in the order of a hash map.
        let run = json!({ "cursor": self.cursor, "values": self.learner.values });
        let metadata = HashMap::from([(ENTRY.to_owned(), run.to_string())]);
        let body =
            safetensors::serialize(views, Some(metadata)).map_err(|e| failed(&format!("{e:?}")))?;
        let hash = blake3::hash(&body);
        Ok([&MAGIC[..], hash.as_bytes(), &body].concat())
    }

    /// Reads bytes back, after checking that they are complete and unchanged.
    ///
    /// # Errors
    /// If they are not; `source` is what the error calls them.
    pub fn from_bytes(source: &str, bytes: &[u8]) -> Result<Self> {
        let damaged =
            |found: &str| Error::input(source, found, "a complete checkpoint of this version");
        let (head, body) = bytes
            .split_at_checked(HEAD)
            .ok_or_else(|| damaged("a file cut short"))?;
        if !head.starts_with(MAGIC) {
            return Err(damaged("another kind of file"));
        }
        if blake3::hash(body).as_bytes() != &head[MAGIC.len()..] {
            return Err(damaged("damaged bytes"));
        }
        let (_, header) =
            SafeTensors::read_metadata(body).map_err(|e| damaged(&format!("{e:?}")))?;
        let file = SafeTensors::deserialize(body).map_err(|e| damaged(&format!("{e:?}")))?;
        let text = header.metadata().as_ref().and_then(|m| m.get(ENTRY));
        let text = text.ok_or_else(|| damaged("a header without its entry"))?;
        let mut run: Value = serde_json::from_str(text).map_err(|e| damaged(&e.to_string()))?;
        let mut learner = State::default();
        if let Value::Object(values) = run["values"].take() {
            learner.values = values.into_iter().collect();
        }
        for (name, view) in file.tensors() {
            let values = unraw(view.dtype(), view.data())
                .ok_or_else(|| damaged(&format!("numbers of kind {:?}", view.dtype())))?;
            learner.put(
                name,
                Array {
                    shape: view.shape().to_vec(),
                    values,
                },
            );
        }
        let cursor = run["cursor"].take();
        Ok(Self { cursor, learner })
    }

    /// Writes it under a temporary name and renames it.
    ///
    /// # Errors
    /// If the disk refuses; the file that was there stays.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_atomically(path, &self.to_bytes()?)
    }

    /// Reads a checkpoint.
    ///
    /// # Errors
    /// If the file cannot be read or is damaged.
    pub fn load(path: &Path) -> Result<Self> {
        let source = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| Error::other(&source, error))?;
        Self::from_bytes(&source, &bytes)
    }
}

fn dtype(values: &Values) -> Dtype {
    match values {
        Values::F32(_) => Dtype::F32,
        Values::F64(_) => Dtype::F64,
        Values::I64(_) => Dtype::I64,
        Values::U8(_) => Dtype::U8,
    }
}

fn raw(values: &Values) -> Vec<u8> {
    match values {
        Values::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Values::F64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Values::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Values::U8(v) => v.clone(),
    }
}

fn unraw(dtype: Dtype, data: &[u8]) -> Option<Values> {
    Some(match dtype {
        Dtype::F32 => Values::F32(
            data.as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect(),
        ),
        Dtype::F64 => Values::F64(
            data.as_chunks()
                .0
                .iter()
                .map(|b| f64::from_le_bytes(*b))
                .collect(),
        ),
        Dtype::I64 => Values::I64(
            data.as_chunks()
                .0
                .iter()
                .map(|b| i64::from_le_bytes(*b))
                .collect(),
        ),
        Dtype::U8 => Values::U8(data.to_vec()),
        _ => return None,
    })
}
