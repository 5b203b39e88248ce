//! The prototypes that a step leaves for the next one's feedback.

use burn::tensor::{Device, Tensor};
use everburn_backend::{from_state, to_array};
use everburn_core::{Error, Result, State};

/// The prototypes of the classes in a batch of the memory, the mean of both views.
#[derive(Clone, Debug)]
pub(crate) struct Prototypes {
    /// The class of each row by its number of arrival, ascending.
    pub(crate) classes: Vec<usize>,
    /// `[classes, width]`, without a tape.
    pub(crate) means: Tensor<2>,
}

impl Prototypes {
    /// Bytes of the means.
    pub(crate) fn bytes(&self) -> u64 {
        4 * self.means.dims().iter().product::<usize>() as u64
    }

    /// Adds them, or that there are none, to a state.
    pub(crate) fn save(this: Option<&Self>, state: &mut State) -> Result<()> {
        state.put_value("prototype_classes", this.map(|known| &known.classes))?;
        if let Some(prototypes) = this {
            state.put("prototypes", to_array(&prototypes.means)?);
        }
        Ok(())
    }

    /// Those of a state, of this width and of the first `seen` classes.
    pub(crate) fn restored(
        state: &State,
        width: usize,
        seen: usize,
        device: &Device,
    ) -> Result<Option<Self>> {
        let Some(classes) = state.value::<Option<Vec<usize>>>("prototype_classes")? else {
            return Ok(None);
        };
        let means = from_state::<2>(state, "prototypes", device)?;
        let expected = [classes.len(), width];
        let is_known = classes.iter().all(|class| *class < seen);
        if means.dims() != expected || !is_known || !classes.is_sorted_by(|a, b| a < b) {
            let found = format!("{:?} of classes {classes:?}", means.dims());
            let expected = format!("{expected:?} of some of {seen} classes, ascending");
            return Err(Error::state("prototypes", found, expected));
        }
        Ok(Some(Self { classes, means }))
    }
}
