use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{
    AdamConfig, AdamState, AdamWConfig, AdamWState, Optimizer, RecordState, SgdConfig, SgdState,
    StateSink, StateSource,
};
use burn::tensor::{Device, Tensor, TensorData};
use everburn_core::{Array, Checker, Error, Kind, Memory, Result, State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Grads;
use crate::params::{follow_path, params};

/// An update rule with PyTorch's meaning and defaults.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "rule")]
pub enum Rule {
    /// g ← g + wd·w; v ← μv + g (v = g at first); w ← w − lr·v. No dampening, no Nesterov.
    Sgd(SgdSettings),
    /// Adam with weight decay added to the gradient.
    Adam(AdamSettings),
    /// Adam with decoupled weight decay: w ← (1 − lr·wd)·w before the step.
    AdamW(AdamSettings),
}

/// Settings of SGD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SgdSettings {
    /// μ, 0 by default.
    pub momentum: f64,
}

/// Settings of Adam and AdamW.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdamSettings {
    /// Decay of the first moment, 0.9 by default.
    pub beta1: f32,
    /// Decay of the second moment, 0.999 by default.
    pub beta2: f32,
    /// Added outside the root, 1e-8 by default.
    pub epsilon: f32,
}

impl Default for AdamSettings {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
        }
    }
}

impl Rule {
    /// SGD with momentum.
    pub fn sgd(momentum: f64) -> Self {
        Self::Sgd(SgdSettings { momentum })
    }

    /// Adam with PyTorch's defaults.
    pub fn adam() -> Self {
        Self::Adam(AdamSettings::default())
    }

    /// AdamW with PyTorch's defaults.
    pub fn adamw() -> Self {
        Self::AdamW(AdamSettings::default())
    }

    /// How many moments of each parameter it keeps.
    fn moments(&self) -> usize {
        match self {
            Self::Sgd(settings) => usize::from(settings.momentum > 0.0),
            Self::Adam(_) | Self::AdamW(_) => 2,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// Names the one that is wrong.
    pub fn validate(&self) -> Result<()> {
        let check = Checker::new("optimiser");
        match self {
            Self::Sgd(s) => check.within("momentum", s.momentum, 0.0..1.0, "from 0 to below 1"),
            Self::Adam(s) | Self::AdamW(s) => {
                check.within("beta1", s.beta1, 0.0..1.0, "from 0 to below 1")?;
                check.within("beta2", s.beta2, 0.0..1.0, "from 0 to below 1")?;
                check.within("epsilon", s.epsilon, 0.0..=1.0, "from 0 to 1")
            }
        }
    }
}

/// Parameters that share a rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The beginning of the paths of its parameters; empty for all. Of several groups that fit, the
    /// first counts.
    pub prefix: String,
    /// The learning rate.
    pub rate: f64,
    /// The weight decay.
    pub weight_decay: f64,
}

impl Group {
    /// All parameters.
    pub fn all(rate: f64, weight_decay: f64) -> Self {
        Self::below("", rate, weight_decay)
    }

    /// The parameters whose path begins with `prefix`.
    pub fn below(prefix: impl Into<String>, rate: f64, weight_decay: f64) -> Self {
        Self {
            prefix: prefix.into(),
            rate,
            weight_decay,
        }
    }
}

/// What an optimiser remembers of one parameter, flattened to one side.
#[derive(Clone)]
enum Moments {
    Sgd(SgdState<1>),
    Adam(AdamState<1>),
    AdamW(AdamWState<1>),
}

impl Moments {
    fn flatten(&self) -> StateSink {
        let mut sink = StateSink::default();
        match self {
            Self::Sgd(state) => state.state_flatten("", &mut sink),
            Self::Adam(state) => state.state_flatten("", &mut sink),
            Self::AdamW(state) => state.state_flatten("", &mut sink),
        }
        sink
    }

    /// `time` is the number of steps taken, which Adam counts for each parameter.
    fn unflatten(
        rule: Rule,
        tensors: impl IntoIterator<Item = (String, Vec<f32>)>,
        time: u64,
        device: &Device,
    ) -> Option<Self> {
        let scalars = [("momentum.time".to_owned(), time.into())];
        let mut source = StateSource::new(scalars.into_iter().collect());
        for (name, values) in tensors {
            let shape = [values.len()];
            source.insert_tensor(name, TensorData::new(values, shape));
        }
        match rule {
            Rule::Sgd(_) => SgdState::state_unflatten("", &mut source, device).map(Self::Sgd),
            Rule::Adam(_) => AdamState::state_unflatten("", &mut source, device).map(Self::Adam),
            Rule::AdamW(_) => AdamWState::state_unflatten("", &mut source, device).map(Self::AdamW),
        }
    }

    fn time(sink: &StateSink) -> u64 {
        let time = sink
            .scalars
            .iter()
            .find(|(name, _)| name == "momentum.time");
        time.and_then(|(_, scalar)| u64::try_from(*scalar).ok())
            .unwrap_or(0)
    }
}

/// The moments of a parameter, and how many values it had when they were made.
#[derive(Clone)]
struct Kept {
    moments: Moments,
    len: usize,
}

/// Drives burn's update rules parameter by parameter, with groups, and with state kept by path.
///
/// burn's own module optimiser keys its state by numbers drawn anew in each process, so a state
/// saved by one run would not fit the next.
#[derive(Clone)]
pub struct Optimiser {
    rule: Rule,
    groups: Vec<Group>,
    moments: BTreeMap<String, Kept>,
}

impl Optimiser {
    /// An optimiser that remembers nothing yet. Parameters of no group do not move.
    ///
    /// # Errors
    /// If a setting is out of its domain.
    pub fn new(rule: Rule, groups: Vec<Group>) -> Result<Self> {
        rule.validate()?;
        let check = Checker::new("optimiser");
        for group in &groups {
            check.within("rate", group.rate, 0.0..f64::INFINITY, "0 or more")?;
            check.within(
                "weight_decay",
                group.weight_decay,
                0.0..f64::INFINITY,
                "0 or more",
            )?;
        }
        Ok(Self {
            rule,
            groups,
            moments: BTreeMap::new(),
        })
    }

    /// With one group more, after the others.
    ///
    /// # Errors
    /// If a setting is out of its domain.
    pub fn with_group(self, group: Group) -> Result<Self> {
        let groups = [self.groups, vec![group]].concat();
        Ok(Self {
            moments: self.moments,
            ..Self::new(self.rule, groups)?
        })
    }

    /// Sets the learning rate of the group with this prefix.
    pub fn set_rate(&mut self, prefix: &str, rate: f64) {
        for group in self.groups.iter_mut().filter(|g| g.prefix == prefix) {
            group.rate = rate;
        }
    }

    /// The groups.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Forgets all moments, as a newly created optimiser.
    pub fn reset(&mut self) {
        self.moments.clear();
    }

    /// One update of every parameter that has a gradient. Returns the module without a tape.
    ///
    /// A parameter that has grown at its end since the last step (a head that met new classes)
    /// keeps the moments of its old part and starts the new part at zero.
    ///
    /// # Errors
    /// If moments must grow and the device fails to hand them over.
    pub fn step<M: Module>(&mut self, module: M, grads: Grads) -> Result<M> {
        let mut stepper = Stepper {
            path: Default::default(),
            optimiser: self,
            grads,
            error: None,
        };
        let module = module.map(&mut stepper);
        stepper.error.map_or(Ok(module), Err)
    }

    fn update(&mut self, path: &str, value: Tensor<1>, grad: Tensor<1>) -> Result<Tensor<1>> {
        let Some(group) = self.groups.iter().find(|g| path.starts_with(&g.prefix)) else {
            return Ok(value);
        };
        let rates = [group.rate, group.weight_decay];
        let (len, device) = (value.dims()[0], value.device());
        let moments = match self.moments.remove(path) {
            Some(kept) => Some(self.grown(path, kept, len, &device)?),
            None => None,
        };
        let (value, moments) = apply(self.rule, rates, value, grad, moments);
        if let Some(moments) = moments {
            self.moments.insert(path.to_owned(), Kept { moments, len });
        }
        Ok(value)
    }

    /// The moments, lengthened by zeros if the parameter is longer than they are.
    fn grown(&self, path: &str, kept: Kept, len: usize, device: &Device) -> Result<Moments> {
        if kept.len == len {
            return Ok(kept.moments);
        }
        let sink = kept.moments.flatten();
        let time = Moments::time(&sink);
        let mut tensors = Vec::new();
        for (name, data) in sink.tensors {
            let mut values = data_to_vec(path, data)?;
            values.resize(len, 0.0);
            tensors.push((name, values));
        }
        Moments::unflatten(self.rule, tensors, time, device)
            .ok_or_else(|| Error::other("growing the optimiser's moments", path))
    }

    /// Bytes of the moments.
    pub fn memory(&self) -> Memory {
        let per_value = self.rule.moments();
        let values: usize = self.moments.values().map(|kept| kept.len).sum();
        Memory {
            kind: Kind::Optimiser,
            name: "moments".to_owned(),
            bytes: 4 * (values * per_value) as u64,
            held: None,
        }
    }

    /// The moments as a state, by path.
    ///
    /// # Errors
    /// If the device fails to hand them over.
    pub fn save(&self) -> Result<State> {
        let mut state = State::default();
        let (mut times, mut lengths) = (BTreeMap::new(), BTreeMap::new());
        for (path, kept) in &self.moments {
            let sink = kept.moments.flatten();
            times.insert(path, Moments::time(&sink));
            lengths.insert(path, kept.len);
            for (name, data) in sink.tensors {
                let values = data_to_vec(path, data)?;
                state.put(format!("{path}/{name}"), Array::f32([values.len()], values));
            }
        }
        state.put_value("steps", times)?;
        state.put_value("lengths", lengths)?;
        state.put_value(
            "rates",
            self.groups.iter().map(|g| g.rate).collect::<Vec<_>>(),
        )?;
        Ok(state)
    }

    /// Every parameter that has been stepped has the moments of the rule. They are as long as each other,
    /// and no longer than it: shorter ones belong to a head that has grown since.
    fn check_moments<M: Module>(&self, moments: &State, module: &M) -> Result<()> {
        let count = self.rule.moments();
        let steps: BTreeMap<String, u64> = moments.value("steps")?;
        let mut lengths: BTreeMap<&str, Vec<usize>> = steps
            .keys()
            .map(|path| (path.as_str(), Vec::new()))
            .collect();
        for (name, array) in &moments.arrays {
            let path = name.split_once('/').map_or(name.as_str(), |(path, _)| path);
            let of_path = lengths.get_mut(path).ok_or_else(|| {
                Error::state(
                    format!("optimiser.{name}"),
                    "no number of steps",
                    "one in `steps`",
                )
            })?;
            of_path.push(array.values.len());
        }
        let sizes: BTreeMap<String, usize> = (params(module).into_iter())
            .map(|param| (param.path, param.shape.iter().product()))
            .collect();
        for (path, lengths) in lengths {
            let largest = sizes.get(path).copied().unwrap_or(0);
            let fits = |length: &usize| *length <= largest && Some(length) == lengths.first();
            if lengths.len() != count || !lengths.iter().all(fits) {
                let expected = format!("{count} of one length, at most {largest}");
                return Err(Error::state(
                    format!("optimiser.{path}"),
                    format!("{lengths:?}"),
                    expected,
                ));
            }
        }
        Ok(())
    }

    /// Goes back to saved moments and rates, of a module like this one.
    ///
    /// # Errors
    /// If the state is of another rule, another number of groups or another module.
    pub fn restore<M: Module>(&mut self, state: &State, module: &M, device: &Device) -> Result<()> {
        self.check_moments(state, module)?;
        let rates: Vec<f64> = state.value("rates")?;
        if rates.len() != self.groups.len() {
            return Err(Error::state("rates", rates.len(), self.groups.len()));
        }
        let times: BTreeMap<String, u64> = state.value("steps")?;
        let lengths: BTreeMap<String, usize> = state.value("lengths")?;
        let mut moments = BTreeMap::new();
        for (path, time) in times {
            let len = (lengths.get(&path).copied()).ok_or_else(|| {
                Error::state("lengths", "nothing", format!("a length of `{path}`"))
            })?;
            let prefix = format!("{path}/");
            let mut tensors = Vec::new();
            for name in state.arrays.keys().filter(|name| name.starts_with(&prefix)) {
                let (_, values) = state.f32::<1>(name)?;
                tensors.push((name[prefix.len()..].to_owned(), values.to_vec()));
            }
            let one = Moments::unflatten(self.rule, tensors, time, device).ok_or_else(|| {
                Error::state(&path, "moments of another rule", format!("{:?}", self.rule))
            })?;
            moments.insert(path, Kept { moments: one, len });
        }
        for (group, rate) in self.groups.iter_mut().zip(rates) {
            group.rate = rate;
        }
        self.moments = moments;
        Ok(())
    }
}

fn data_to_vec(path: &str, data: TensorData) -> Result<Vec<f32>> {
    data.try_to_vec::<f32>()
        .map_err(|error| Error::other(format!("moments of `{path}`"), format!("{error:?}")))
}

fn apply(
    rule: Rule,
    [rate, decay]: [f64; 2],
    value: Tensor<1>,
    grad: Tensor<1>,
    moments: Option<Moments>,
) -> (Tensor<1>, Option<Moments>) {
    let coupled = (decay > 0.0).then_some(WeightDecayConfig {
        penalty: decay as f32,
    });
    match rule {
        Rule::Sgd(settings) => {
            let momentum = (settings.momentum > 0.0).then(|| {
                MomentumConfig::new()
                    .with_momentum(settings.momentum)
                    .with_dampening(0.0)
            });
            let sgd = SgdConfig::new()
                .with_momentum(momentum)
                .with_weight_decay(coupled)
                .build();
            let state = match moments {
                Some(Moments::Sgd(state)) => Some(state),
                _ => None,
            };
            let (value, state) = sgd.step(rate, value, grad, state);
            (value, state.map(Moments::Sgd))
        }
        Rule::Adam(s) => {
            let adam = AdamConfig::new()
                .with_beta_1(s.beta1)
                .with_beta_2(s.beta2)
                .with_epsilon(s.epsilon)
                .with_weight_decay(coupled)
                .build();
            let state = match moments {
                Some(Moments::Adam(state)) => Some(state),
                _ => None,
            };
            let (value, state) = adam.step(rate, value, grad, state);
            (value, state.map(Moments::Adam))
        }
        Rule::AdamW(s) => {
            let adamw = AdamWConfig::new()
                .with_beta_1(s.beta1)
                .with_beta_2(s.beta2)
                .with_epsilon(s.epsilon)
                .with_weight_decay(decay as f32)
                .build();
            let state = match moments {
                Some(Moments::AdamW(state)) => Some(state),
                _ => None,
            };
            let (value, state) = adamw.step(rate, value, grad, state);
            (value, state.map(Moments::AdamW))
        }
    }
}

struct Stepper<'a> {
    path: crate::params::Path,
    optimiser: &'a mut Optimiser,
    grads: Grads,
    error: Option<Error>,
}

impl ModuleMapper for Stepper<'_> {
    follow_path!();

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join();
        let grad = self.grads.remove(&path);
        param.map(|tensor| {
            let value = tensor.without_autodiff();
            let Some(grad) = grad else { return value };
            let shape = value.dims();
            match self
                .optimiser
                .update(&path, value.clone().reshape([-1]), grad)
            {
                Ok(updated) => updated.reshape(shape),
                Err(error) => {
                    self.error.get_or_insert(error);
                    value
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceChoice, random, to_vec};
    use everburn_core::Key;

    #[derive(Module, Debug)]
    struct Net {
        weight: Param<Tensor<2>>,
    }

    fn net(rows: usize, device: &Device) -> Net {
        let key = Key::from_seed(1);
        Net {
            weight: Param::from_tensor(random::uniform(key, [rows, 2], -1.0, 1.0, device)),
        }
    }

    fn grads(rows: usize, step: u64, device: &Device) -> Grads {
        let key = Key::from_seed(2).at(step);
        let grad = random::uniform(key, [rows * 2], -1.0, 1.0, device);
        Grads::from([("weight".to_owned(), grad)])
    }

    #[test]
    fn a_restored_optimiser_goes_on_to_the_byte() {
        let device = DeviceChoice::CPU.open().unwrap();
        for rule in [Rule::sgd(0.9), Rule::adam(), Rule::adamw()] {
            let fresh = || Optimiser::new(rule, vec![Group::all(0.01, 0.1)]).unwrap();
            let (mut straight, mut module) = (fresh(), net(3, &device));
            for t in 0..4 {
                module = straight.step(module, grads(3, t, &device)).unwrap();
            }
            let mut resumed = fresh();
            let saved = straight.save().unwrap();
            resumed.restore(&saved, &module, &device).unwrap();
            let mut copy = net(3, &device);
            copy.weight = Param::from_tensor(module.weight.val());
            for t in 4..8 {
                module = straight.step(module, grads(3, t, &device)).unwrap();
                copy = resumed.step(copy, grads(3, t, &device)).unwrap();
            }
            let values = |net: &Net| to_vec(&net.weight.val()).unwrap();
            assert_eq!(values(&module), values(&copy), "{rule:?}");
            assert_eq!(resumed.save().unwrap(), straight.save().unwrap());
        }
    }

    #[test]
    fn a_grown_parameter_keeps_the_moments_of_its_old_part() {
        let device = DeviceChoice::CPU.open().unwrap();
        for rule in [Rule::sgd(0.9), Rule::adam()] {
            let mut optimiser = Optimiser::new(rule, vec![Group::all(0.01, 0.0)]).unwrap();
            optimiser
                .step(net(2, &device), grads(2, 0, &device))
                .unwrap();
            let before = optimiser.save().unwrap();
            optimiser
                .step(net(3, &device), grads(3, 1, &device))
                .unwrap();
            let after = optimiser.save().unwrap();
            for (name, array) in &before.arrays {
                assert_eq!(array.shape, [4], "{name}");
                assert_eq!(after.array(name).unwrap().shape, [6], "{name}");
            }
        }
    }

    #[test]
    fn a_parameter_of_no_group_does_not_move() {
        let device = DeviceChoice::CPU.open().unwrap();
        let groups = vec![Group::below("other", 0.5, 0.0)];
        let mut optimiser = Optimiser::new(Rule::sgd(0.0), groups).unwrap();
        let before = to_vec(&net(2, &device).weight.val()).unwrap();
        let module = optimiser
            .step(net(2, &device), grads(2, 0, &device))
            .unwrap();
        assert_eq!(to_vec(&module.weight.val()).unwrap(), before);
    }

    #[test]
    fn wrong_settings_are_refused() {
        assert!(Optimiser::new(Rule::sgd(1.5), vec![]).is_err());
        assert!(Optimiser::new(Rule::adam(), vec![Group::all(f64::NAN, 0.0)]).is_err());
        assert!(Optimiser::new(Rule::adam(), vec![Group::all(0.1, -1.0)]).is_err());
    }
}
