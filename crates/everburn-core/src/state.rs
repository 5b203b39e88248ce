use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Error, Result};

/// Numbers of one type.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit floats.
    F64(Vec<f64>),
    /// 64-bit integers.
    I64(Vec<i64>),
    /// Bytes.
    U8(Vec<u8>),
}

impl Values {
    /// How many numbers.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::U8(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the numbers take.
    pub fn bytes(&self) -> u64 {
        let width = match self {
            Self::F32(_) => 4,
            Self::F64(_) | Self::I64(_) => 8,
            Self::U8(_) => 1,
        };
        self.len() as u64 * width
    }

    /// The name of the type.
    pub fn dtype(&self) -> &'static str {
        match self {
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::I64(_) => "i64",
            Self::U8(_) => "u8",
        }
    }
}

/// A row-major array.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Its sides; their product is the number of values.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub values: Values,
}

impl Array {
    /// An array of 32-bit floats.
    pub fn f32(shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Self {
        Self {
            shape: shape.into(),
            values: Values::F32(values),
        }
    }

    /// An array of 64-bit floats.
    pub fn f64(shape: impl Into<Vec<usize>>, values: Vec<f64>) -> Self {
        Self {
            shape: shape.into(),
            values: Values::F64(values),
        }
    }

    /// An array of bytes.
    pub fn u8(shape: impl Into<Vec<usize>>, values: Vec<u8>) -> Self {
        Self {
            shape: shape.into(),
            values: Values::U8(values),
        }
    }

    /// An array of 64-bit integers.
    pub fn i64(shape: impl Into<Vec<usize>>, values: Vec<i64>) -> Self {
        Self {
            shape: shape.into(),
            values: Values::I64(values),
        }
    }

    /// Whether the product of the sides is the number of values.
    fn is_whole(&self) -> bool {
        let sides = self.shape.iter();
        sides.copied().try_fold(1, usize::checked_mul) == Some(self.values.len())
    }

    fn is_same(&self, other: &Self) -> bool {
        let values = match (&self.values, &other.values) {
            (Values::F32(a), Values::F32(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
            }
            (Values::F64(a), Values::F64(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
            }
            (a, b) => a == b,
        };
        values && self.shape == other.shape
    }

    fn describe(&self) -> String {
        format!(
            "{} {:?} of {} values",
            self.values.dtype(),
            self.shape,
            self.values.len()
        )
    }
}

/// The complete state of a learner: arrays and small values by name, in the order of the names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Parameters, statistics, buffers.
    pub arrays: BTreeMap<String, Array>,
    /// Counters, lists, hashes of frozen weights.
    pub values: BTreeMap<String, Value>,
}

impl State {
    /// Adds an array.
    pub fn put(&mut self, name: impl Into<String>, array: Array) {
        self.arrays.insert(name.into(), array);
    }

    /// Adds a small value.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn put_value(&mut self, name: impl Into<String>, value: impl Serialize) -> Result<()> {
        let name = name.into();
        let value =
            serde_json::to_value(value).map_err(|e| Error::other(format!("saving `{name}`"), e))?;
        self.values.insert(name, value);
        Ok(())
    }

    /// Reads a small value.
    ///
    /// # Errors
    /// If it is missing or of another type.
    pub fn value<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let value = self
            .values
            .get(name)
            .ok_or_else(|| Error::state(name, "nothing", "a value"))?;
        T::deserialize(value).map_err(|e| Error::state(name, value, e))
    }

    /// An array, whatever its type.
    ///
    /// # Errors
    /// If it is missing.
    pub fn array(&self, name: &str) -> Result<&Array> {
        self.arrays
            .get(name)
            .ok_or_else(|| Error::state(name, "nothing", "an array"))
    }

    /// The 32-bit floats of an array with as many sides as given, and its shape.
    ///
    /// # Errors
    /// If it is missing, of another type, or its shape does not agree with its length.
    pub fn f32<const D: usize>(&self, name: &str) -> Result<([usize; D], &[f32])> {
        let array = self.array(name)?;
        match (&array.values, <[usize; D]>::try_from(&array.shape[..])) {
            (Values::F32(values), Ok(shape)) if array.is_whole() => Ok((shape, values)),
            _ => Err(Error::state(
                name,
                array.describe(),
                format!("f32 with {D} sides"),
            )),
        }
    }

    /// The 64-bit floats of an array with as many sides as given, and its shape.
    ///
    /// # Errors
    /// As [`f32`](Self::f32).
    pub fn f64<const D: usize>(&self, name: &str) -> Result<([usize; D], &[f64])> {
        let array = self.array(name)?;
        match (&array.values, <[usize; D]>::try_from(&array.shape[..])) {
            (Values::F64(values), Ok(shape)) if array.is_whole() => Ok((shape, values)),
            _ => Err(Error::state(
                name,
                array.describe(),
                format!("f64 with {D} sides"),
            )),
        }
    }

    /// The bytes of an array, and its shape.
    ///
    /// # Errors
    /// If it is missing, of another type, or its shape does not agree with its length.
    pub fn u8(&self, name: &str) -> Result<(&[usize], &[u8])> {
        let array = self.array(name)?;
        match &array.values {
            Values::U8(values) if array.is_whole() => Ok((&array.shape, values)),
            _ => Err(Error::state(name, array.describe(), "u8")),
        }
    }

    /// The integers of an array.
    ///
    /// # Errors
    /// If it is missing, of another type, or its shape does not agree with its length.
    pub fn i64(&self, name: &str) -> Result<&[i64]> {
        let array = self.array(name)?;
        match &array.values {
            Values::I64(values) if array.is_whole() => Ok(values),
            _ => Err(Error::state(name, array.describe(), "i64")),
        }
    }

    /// Takes in all of `other`, its names prefixed by `prefix` and a dot.
    pub fn nest(&mut self, prefix: &str, other: Self) {
        let name = |inner: String| format!("{prefix}.{inner}");
        self.arrays
            .extend(other.arrays.into_iter().map(|(k, v)| (name(k), v)));
        self.values
            .extend(other.values.into_iter().map(|(k, v)| (name(k), v)));
    }

    /// What [`nest`](Self::nest) put below `prefix`.
    pub fn below(&self, prefix: &str) -> Self {
        let strip = |name: &String| {
            let rest = name.strip_prefix(prefix)?.strip_prefix('.')?;
            Some(rest.to_owned())
        };
        Self {
            arrays: (self.arrays.iter())
                .filter_map(|(k, v)| Some((strip(k)?, v.clone())))
                .collect(),
            values: (self.values.iter())
                .filter_map(|(k, v)| Some((strip(k)?, v.clone())))
                .collect(),
        }
    }

    /// The first name under which two states do not hold the same, to the bit (so that NaN equals
    /// itself and 0 differs from −0); `None` if they are the same.
    pub fn difference<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        let arrays = self
            .arrays
            .keys()
            .chain(other.arrays.keys())
            .filter(|name| {
                let pair = self.arrays.get(*name).zip(other.arrays.get(*name));
                !pair.is_some_and(|(a, b)| a.is_same(b))
            });
        let values = self.values.keys().chain(other.values.keys());
        let values = values.filter(|name| self.values.get(*name) != other.values.get(*name));
        arrays.chain(values).next().map(String::as_str)
    }

    /// Bytes of all arrays.
    pub fn array_bytes(&self) -> u64 {
        self.arrays.values().map(|a| a.values.bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_states_come_back() {
        let mut inner = State::default();
        inner.put("w", Array::f32([2, 1], vec![1.0, 2.0]));
        inner.put_value("steps", 7).unwrap();
        let mut outer = State::default();
        outer.nest("head", inner.clone());
        outer.put("headless", Array::u8([1], vec![3]));
        assert_eq!(outer.below("head"), inner);
        assert_eq!(outer.f32::<2>("head.w").unwrap().0, [2, 1]);
        assert_eq!(outer.array_bytes(), 9);
    }

    #[test]
    fn states_are_compared_to_the_bit() {
        let state = |zero: f32| {
            let mut state = State::default();
            state.put("w", Array::f32([2], vec![f32::NAN, zero]));
            state.put_value("n", 1).unwrap();
            state
        };
        assert_eq!(state(0.0).difference(&state(0.0)), None);
        assert_eq!(state(0.0).difference(&state(-0.0)), Some("w"));
        let mut other = state(0.0);
        other.put_value("n", 2).unwrap();
        assert_eq!(state(0.0).difference(&other), Some("n"));
        other.values.clear();
        assert_eq!(state(0.0).difference(&other), Some("n"));
        assert_eq!(State::default().difference(&other), Some("w"));
    }

    #[test]
    fn what_is_missing_or_of_another_kind_is_named() {
        let mut state = State::default();
        state.put("w", Array::f32([2], vec![1.0]));
        state.put_value("n", "seven").unwrap();
        let text = |r: Result<()>| r.unwrap_err().to_string();
        assert!(text(state.f32::<1>("w").map(drop)).contains("`w`"));
        assert!(text(state.u8("w").map(drop)).contains("found f32"));
        assert!(text(state.value::<u32>("n").map(drop)).contains("\"seven\""));
        assert!(text(state.value::<u32>("m").map(drop)).contains("found nothing"));
    }
}
