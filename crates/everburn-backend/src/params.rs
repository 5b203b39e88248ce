use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};
use everburn_core::{Error, Result, State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{from_array, to_array};

/// The path of the parameter that a visit has come to, such as `blocks.3.attn.qkv.weight`.
///
/// burn's own keys are random numbers, new in every process; a path is the same in all of them.
#[derive(Default)]
pub(crate) struct Path(Vec<String>);

impl Path {
    pub(crate) fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    pub(crate) fn exit(&mut self) {
        self.0.pop();
    }

    pub(crate) fn join(&self) -> String {
        self.0.join(".")
    }
}

macro_rules! follow_path {
    () => {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.enter(name);
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
    };
}
pub(crate) use follow_path;

/// A parameter's name and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamInfo {
    /// Its path in the module.
    pub path: String,
    /// Its sides.
    pub shape: Vec<usize>,
}

/// The parameters of a module, in the order of its fields.
pub fn params<M: Module>(module: &M) -> Vec<ParamInfo> {
    struct Visitor {
        path: Path,
        found: Vec<ParamInfo>,
    }
    impl ModuleVisitor for Visitor {
        follow_path!();
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.found.push(ParamInfo {
                path: self.path.join(),
                shape: param.lazy_shape().to_vec(),
            });
        }
    }
    let mut visitor = Visitor {
        path: Path::default(),
        found: Vec::new(),
    };
    module.visit(&mut visitor);
    visitor.found
}

/// Bytes of a module's parameters, at 4 bytes each.
pub fn param_bytes<M: Module>(module: &M) -> u64 {
    param_bytes_of(module, |_| true)
}

/// [`param_bytes`] of those that `wanted` chooses by path.
pub fn param_bytes_of<M: Module>(module: &M, wanted: impl Fn(&str) -> bool) -> u64 {
    let sizes = params(module).into_iter();
    4 * sizes
        .filter(|p| wanted(&p.path))
        .map(|p| p.shape.iter().product::<usize>() as u64)
        .sum::<u64>()
}

/// The parameters of a module as a state, by path.
///
/// # Errors
/// If the device fails to hand them over.
pub fn save_params<M: Module>(module: &M) -> Result<State> {
    save_params_of(module, |_| true)
}

/// [`save_params`] for those that `wanted` chooses by path.
///
/// # Errors
/// If the device fails to hand them over.
pub fn save_params_of<M: Module>(module: &M, wanted: impl Fn(&str) -> bool) -> Result<State> {
    struct Visitor<F> {
        path: Path,
        wanted: F,
        state: Result<State>,
    }
    impl<F: Fn(&str) -> bool> ModuleVisitor for Visitor<F> {
        follow_path!();
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if !(self.wanted)(&self.path.join()) {
                return;
            }
            let array = to_array(&param.val());
            match (&mut self.state, array) {
                (Ok(state), Ok(array)) => state.put(self.path.join(), array),
                (Ok(_), Err(error)) => self.state = Err(error),
                (Err(_), _) => {}
            }
        }
    }
    let mut visitor = Visitor {
        path: Path::default(),
        wanted,
        state: Ok(State::default()),
    };
    module.visit(&mut visitor);
    visitor.state
}

/// Puts the arrays of a state into the parameters of the same paths.
///
/// # Errors
/// If one is missing or has another shape. The module is consumed; keep a clone to fall back on.
pub fn load_params<M: Module>(module: M, state: &State) -> Result<M> {
    load_params_of(module, state, |_| true)
}

/// [`load_params`] for those that `wanted` chooses by path; the others stay.
///
/// # Errors
/// As [`load_params`].
pub fn load_params_of<M: Module>(
    module: M,
    state: &State,
    wanted: impl Fn(&str) -> bool,
) -> Result<M> {
    struct Mapper<'a, F> {
        path: Path,
        state: &'a State,
        wanted: F,
        error: Option<Error>,
    }
    impl<F: Fn(&str) -> bool> Mapper<'_, F> {
        fn load<const D: usize>(&self, old: &Tensor<D>) -> Result<Tensor<D>> {
            let path = self.path.join();
            let array = self.state.array(&path)?;
            if array.shape != old.dims() {
                let expected = format!("{:?}", old.dims());
                return Err(Error::state(path, format!("{:?}", array.shape), expected));
            }
            from_array(&path, array, &old.device())
        }
    }
    impl<F: Fn(&str) -> bool> ModuleMapper for Mapper<'_, F> {
        follow_path!();
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if !(self.wanted)(&self.path.join()) {
                return param;
            }
            let (id, old, mapper) = param.consume();
            let new = self.load(&old).unwrap_or_else(|error| {
                self.error.get_or_insert(error);
                old
            });
            Param::from_mapped_value(id, new, mapper)
        }
    }
    let mut mapper = Mapper {
        path: Path::default(),
        state,
        wanted,
        error: None,
    };
    let module = module.map(&mut mapper);
    mapper.error.map_or(Ok(module), Err)
}

/// The module with a tape behind the parameters that `wanted` chooses by path; all others stay
/// plain tensors, which burn treats as constants and for which it records nothing.
pub fn track<M: Module>(module: M, wanted: impl Fn(&str) -> bool) -> M {
    struct Mapper<F> {
        path: Path,
        wanted: F,
    }
    impl<F: Fn(&str) -> bool> ModuleMapper for Mapper<F> {
        follow_path!();
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let wanted = (self.wanted)(&self.path.join());
            param.map(|tensor| {
                let plain = tensor.without_autodiff();
                if wanted {
                    plain.autodiff().require_grad()
                } else {
                    plain
                }
            })
        }
    }
    module.map(&mut Mapper {
        path: Path::default(),
        wanted,
    })
}

/// The module without any tape: what is kept between steps, and what predicts.
pub fn untrack<M: Module>(module: M) -> M {
    track(module, |_| false)
}

/// The exponential moving average of a module's parameters, one step on: w̄ ← α·w̄ + (1 − α)·w, for every one,
/// `decay` being α. Without a tape.
///
/// # Errors
/// If a parameter of one is missing in the other or has another shape.
pub fn ema<M: Module>(average: M, current: &M, decay: f64) -> Result<M> {
    struct Reader {
        path: Path,
        found: BTreeMap<String, (Vec<usize>, Tensor<1>)>,
    }
    impl ModuleVisitor for Reader {
        follow_path!();
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val().without_autodiff();
            let shape = value.dims().to_vec();
            self.found
                .insert(self.path.join(), (shape, value.reshape([-1])));
        }
    }
    struct Mapper {
        path: Path,
        current: BTreeMap<String, (Vec<usize>, Tensor<1>)>,
        decay: f64,
        error: Option<Error>,
    }
    impl ModuleMapper for Mapper {
        follow_path!();
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let path = self.path.join();
            let current = self.current.remove(&path);
            param.map(|average| {
                let average = average.without_autodiff();
                let shape = average.dims();
                match current {
                    Some((found, current)) if found == shape => {
                        average * self.decay + current.reshape(shape) * (1.0 - self.decay)
                    }
                    other => {
                        let found = other.map_or("nothing".to_owned(), |(s, _)| format!("{s:?}"));
                        let error = Error::state(path, found, format!("{shape:?}"));
                        self.error.get_or_insert(error);
                        average
                    }
                }
            })
        }
    }
    let mut reader = Reader {
        path: Path::default(),
        found: BTreeMap::new(),
    };
    current.visit(&mut reader);
    let mut mapper = Mapper {
        path: Path::default(),
        current: reader.found,
        decay,
        error: None,
    };
    let average = average.map(&mut mapper);
    match (mapper.error, mapper.current.keys().next()) {
        (Some(error), _) => Err(error),
        (None, Some(path)) => Err(Error::state(path, "nothing", "an average of it")),
        (None, None) => Ok(average),
    }
}

/// Gradients by path, each flattened to one side.
pub type Grads = BTreeMap<String, Tensor<1>>;

/// Takes the gradients of a tracked module's parameters out of burn's store.
pub fn collect_grads<M: Module>(module: &M, mut gradients: Gradients) -> Grads {
    struct Visitor<'a> {
        path: Path,
        gradients: &'a mut Gradients,
        found: Grads,
    }
    impl ModuleVisitor for Visitor<'_> {
        follow_path!();
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = param.val().grad_remove(self.gradients) {
                self.found.insert(self.path.join(), grad.reshape([-1]));
            }
        }
    }
    let mut visitor = Visitor {
        path: Path::default(),
        gradients: &mut gradients,
        found: Grads::new(),
    };
    module.visit(&mut visitor);
    visitor.found
}

/// Clipping of gradients by their global norm, as `torch.nn.utils.clip_grad_norm_` does it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Clipping {
    /// The largest norm of all gradients together.
    pub max_norm: f64,
}

impl Clipping {
    /// Scales all gradients by min(1, max_norm / (norm + 1e-6)), without a look at them: nothing waits for
    /// the device. Returns the norm before, `[1]`; nothing where there is no gradient.
    pub fn apply(&self, grads: &mut Grads) -> Option<Tensor<1>> {
        if grads.is_empty() {
            return None;
        }
        let squares = grads.values().map(|grad| grad.clone().square().sum());
        let norm = Tensor::cat(squares.collect(), 0).sum().sqrt();
        let factor = (norm.clone() + 1e-6).recip() * self.max_norm;
        let factor = factor.clamp_max(1.0);
        for grad in grads.values_mut() {
            *grad = grad.clone() * factor.clone();
        }
        Some(norm)
    }
}
