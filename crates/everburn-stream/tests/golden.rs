//! The numbers of numpy, Python, PyTorch and the official Si-Blurry sampler.
//!
//! Reads the folder that `EVERBURN_GOLDEN_DIR` names, or this crate's own copy.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;

use everburn_core::{ClassId, SeenClasses};
use everburn_stream::rng::{NumpyRandom, PythonRandom, TorchRandom};
use everburn_stream::{
    ClassOrder, EvalPoints, Manifest, Scenario, SiBlurry, SiBlurryMode, SplitTasks, fnv1a64,
};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn golden(file: &str) -> Vec<u8> {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let folder = std::env::var_os("EVERBURN_GOLDEN_DIR").map_or_else(|| own.into(), PathBuf::from);
    let path = folder.join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn json<T: DeserializeOwned>(file: &str) -> T {
    serde_json::from_slice(&golden(file)).unwrap()
}

fn field<T: DeserializeOwned>(value: &Value, name: &str) -> T {
    serde_json::from_value(value[name].clone()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn entries(value: &Value, name: &str) -> Vec<Value> {
    let entries: Vec<Value> = field(value, name);
    assert!(!entries.is_empty(), "{name} is empty");
    entries
}

fn ids(classes: &[u32]) -> Vec<ClassId> {
    classes.iter().copied().map(ClassId).collect()
}

// ---- class_order.safetensors

fn integers(tensors: &SafeTensors<'_>, name: &str) -> Vec<i64> {
    let tensor = tensors.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), safetensors::Dtype::I64, "{name}");
    let word = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().unwrap());
    tensor.data().chunks_exact(8).map(word).collect()
}

fn words(tensors: &SafeTensors<'_>, name: &str) -> Vec<u32> {
    let narrow = |word| u32::try_from(word).unwrap();
    integers(tensors, name).into_iter().map(narrow).collect()
}

#[test]
fn class_orders_match() {
    let file = golden("class_order.safetensors");
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let seeds = words(&tensors, "seeds");
    let sizes = words(&tensors, "sizes");
    assert!(!seeds.is_empty() && !sizes.is_empty());
    for (i, seed) in seeds.iter().enumerate() {
        for (k, size) in sizes.iter().enumerate() {
            let check = |order: ClassOrder, name: &str| {
                let name = format!("out.{name}.{i}.{k}");
                let classes = order.classes(*size as usize, u64::from(*seed)).unwrap();
                assert_eq!(classes, ids(&words(&tensors, &name)), "{name}");
            };
            check(ClassOrder::Numpy, "numpy_permutation");
            check(ClassOrder::Python, "python_shuffle");
            check(ClassOrder::Torch, "torch_randperm");
        }
        let mut random = NumpyRandom::new(*seed);
        random.permutation(sizes[0]);
        let second = words(&tensors, &format!("out.numpy_second_permutation.{i}"));
        assert_eq!(random.permutation(sizes[1]), second);

        let mut numpy = NumpyRandom::new(*seed);
        for word in words(&tensors, &format!("out.numpy_raw.{i}")) {
            assert_eq!(numpy.next_u32(), word, "numpy, seed {seed}");
        }
        let mut python = PythonRandom::new(u64::from(*seed));
        for word in words(&tensors, &format!("out.python_raw.{i}")) {
            assert_eq!(python.next_u32(), word, "python, seed {seed}");
        }
    }
}

#[test]
fn published_hashes_of_class_orders_match() {
    let numpy = |seed, classes| {
        let order = ClassOrder::Numpy.classes(classes, seed).unwrap();
        format!("{:016x}", fnv1a64(order.into_iter().map(|class| class.0)))
    };
    for (classes, hash) in [
        (5, "d0c72b90758323b1"),
        (10, "08905fb25e139484"),
        (20, "2303fb6ee42aba95"),
        (50, "770c88579a451b74"),
        (100, "b9464e847d3974a5"),
        (200, "64167f1d46fe1db5"),
        (300, "1c723d42346bbf7d"),
        (345, "d97997392f6c1336"),
        (1000, "97f65f38e1ccae8d"),
    ] {
        assert_eq!(numpy(1993, classes), hash, "seed 1993, {classes} classes");
    }
    for (seed, hash) in [
        (0, "39647619a7d94695"),
        (1, "ca702ff4721df7c5"),
        (2, "22aea5cd4193bcc5"),
        (3, "6225e4be64be89a5"),
        (4, "2bc67f37f5473ef5"),
    ] {
        assert_eq!(numpy(seed, 100), hash, "seed {seed}");
    }
}

// ---- torch_rng.json

#[test]
fn torch_permutations_match() {
    for case in entries(&json("torch_rng.json"), "randperm") {
        let mut random = TorchRandom::new(field(&case, "seed"));
        let values: Vec<u32> = field(&case, "values");
        assert_eq!(
            random.randperm(field(&case, "n")).unwrap(),
            values,
            "{case}"
        );
    }
}

#[test]
fn torch_integers_match() {
    for case in entries(&json("torch_rng.json"), "randint") {
        let mut random = TorchRandom::new(field(&case, "seed"));
        let (low, high) = (field(&case, "low"), field(&case, "high"));
        let values: Vec<i64> = field(&case, "values");
        assert_eq!(
            random.randint(low, high, field(&case, "k")).unwrap(),
            values,
            "{case}"
        );
    }
}

#[test]
fn torch_sequences_match() {
    for case in entries(&json("torch_rng.json"), "sequences") {
        let mut random = TorchRandom::new(field(&case, "seed"));
        let ops = entries(&case, "ops");
        let values: Vec<Vec<i64>> = field(&case, "values");
        assert_eq!(ops.len(), values.len());
        for (op, values) in ops.iter().zip(values) {
            let argument = |i: usize| op[i].as_i64().unwrap();
            let count = |i| usize::try_from(argument(i)).unwrap();
            let drawn: Vec<i64> = match op[0].as_str().unwrap() {
                "randperm" => {
                    let order = random.randperm(count(1)).unwrap();
                    order.into_iter().map(i64::from).collect()
                }
                "randint" => random.randint(argument(1), argument(2), count(3)).unwrap(),
                "randint_sorted" => {
                    let mut drawn = random.randint(argument(1), argument(2), count(3)).unwrap();
                    drawn.sort_unstable();
                    drawn
                }
                other => panic!("unknown operation {other}"),
            };
            assert_eq!(drawn, values, "{op} of {case}");
        }
    }
}

#[test]
fn torch_words_and_floats_match() {
    let file: Value = json("torch_rng.json");
    for case in entries(&file, "mt19937_u32") {
        let mut random = TorchRandom::new(field(&case, "seed"));
        for word in field::<Vec<u32>>(&case, "u32") {
            assert_eq!(random.next_u32(), word, "{case}");
        }
    }
    for case in entries(&file, "rand") {
        let mut random = TorchRandom::new(field(&case, "seed"));
        for number in field::<Vec<f64>>(&case, "rand_f32") {
            assert_eq!(f64::from(random.rand_f32()), number, "{case}");
        }
        let mut random = TorchRandom::new(field(&case, "seed"));
        for number in field::<Vec<f64>>(&case, "rand_f64") {
            assert_eq!(random.rand_f64(), number, "{case}");
        }
    }
}

#[test]
fn numpy_legacy_draws_match() {
    for case in entries(&json("torch_rng.json"), "numpy_legacy") {
        // One after the other from one generator, in this order.
        let mut random = NumpyRandom::new(field(&case, "seed"));
        let permutation: Vec<u32> = field(&case, "permutation_10");
        assert_eq!(random.permutation(10), permutation, "{case}");
        for integer in field::<Vec<i64>>(&case, "randint_0_7_x6") {
            assert_eq!(random.randint(0, 7).unwrap(), integer, "{case}");
        }
        for sample in field::<Vec<f64>>(&case, "random_sample_4") {
            assert_eq!(random.random_sample(), sample, "{case}");
        }
        let choice: Vec<u32> = field(&case, "choice_20_5_noreplace");
        let chosen = random.choice_without_replacement(20, choice.len()).unwrap();
        assert_eq!(chosen, choice, "{case}");
    }
}

// ---- si_blurry.json

/// What small and large cases have in common.
#[derive(Deserialize)]
struct Case {
    num_classes: usize,
    num_tasks: usize,
    n_disjoint_percent: u32,
    m_blurry_percent: u32,
    seed: u64,
    stochastic: bool,
    disjoint_classes: Vec<Vec<u32>>,
    blurry_classes: Vec<Vec<u32>>,
    disjoint_slice: Option<Vec<usize>>,
    blurry_slice: Option<Vec<usize>>,
    sizes: Vec<usize>,
    hash: String,
}

impl Case {
    fn scenario(&self, borders: bool) -> SiBlurry {
        SiBlurry {
            tasks: self.num_tasks,
            disjoint_percent: self.n_disjoint_percent,
            blurry_percent: self.m_blurry_percent,
            mode: match self.stochastic {
                true => SiBlurryMode::Stochastic,
                false => SiBlurryMode::Static,
            },
            borders,
        }
    }

    /// Checks a stream against the case, and gives its manifest.
    fn check(&self, labels: &[ClassId]) -> Manifest {
        let scenario = self.scenario(false);
        let parts = scenario.draw(labels, self.num_classes, self.seed).unwrap();
        let owned = |lists: &[Vec<u32>]| lists.iter().map(|l| ids(l)).collect::<Vec<_>>();
        assert_eq!(parts.disjoint_classes(), owned(&self.disjoint_classes));
        assert_eq!(parts.blurry_classes(), owned(&self.blurry_classes));
        if let Some(slice) = &self.disjoint_slice {
            assert_eq!(&parts.disjoint_slice, slice);
        }
        if let Some(slice) = &self.blurry_slice {
            assert_eq!(&parts.blurry_slice, slice);
        }
        let sizes: Vec<usize> = parts.indices.iter().map(Vec::len).collect();
        assert_eq!(sizes, self.sizes);

        let manifest = scenario
            .compile(labels, self.num_classes, self.seed)
            .unwrap();
        manifest.validate(labels).unwrap();
        assert_eq!(manifest.official_hash(), self.hash);
        assert!(manifest.online && !manifest.borders);
        assert_eq!(manifest.tasks.len(), self.num_tasks);

        let told = self
            .scenario(true)
            .compile(labels, self.num_classes, self.seed)
            .unwrap();
        assert_eq!(told.tasks, manifest.tasks);
        assert!(told.borders && told.scenario.starts_with("si-blurry+borders"));
        assert_ne!(told.hash(), manifest.hash());
        manifest
    }
}

#[derive(Deserialize)]
struct SmallCase {
    #[serde(flatten)]
    case: Case,
    targets: Vec<u32>,
    disjoint_num: usize,
    blurry_num: usize,
    indices: Vec<Vec<u32>>,
    batch_size: usize,
    eval_period: u64,
    eval_points_samples_and_exposed: Vec<(u64, usize)>,
    exposure_order: Vec<u32>,
    exposed_after_task: Vec<usize>,
}

#[derive(Deserialize)]
struct LargeCase {
    #[serde(flatten)]
    case: Case,
    samples_per_class: usize,
    layout: String,
    first20: Vec<Vec<u32>>,
    last5: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
struct SiBlurryFile {
    cases: Vec<SmallCase>,
    large: Vec<LargeCase>,
}

#[test]
fn si_blurry_streams_match() {
    let file: SiBlurryFile = json("si_blurry.json");
    assert!(!file.cases.is_empty());
    for small in file.cases {
        let labels = ids(&small.targets);
        let manifest = small.case.check(&labels);
        for ((_, task), indices) in manifest.tasks().zip(&small.indices) {
            assert_eq!(&task.indices, indices);
        }
        let scenario = small.case.scenario(false);
        let parts = scenario
            .draw(&labels, small.case.num_classes, small.case.seed)
            .unwrap();
        assert_eq!(parts.disjoint_num, small.disjoint_num);
        assert_eq!(parts.blurry_num, small.blurry_num);
        let kept = small.disjoint_num + small.blurry_num;
        assert_eq!(parts.dropped_classes().len(), small.case.num_classes - kept);
        assert_eq!(
            manifest.exposure(&labels).unwrap(),
            ids(&small.exposure_order)
        );
        check_evaluation(&small, &manifest, &labels);
    }
}

/// The loop of the official trainer: which classes are exposed at which evaluation.
fn check_evaluation(small: &SmallCase, manifest: &Manifest, labels: &[ClassId]) {
    let points = EvalPoints::Period(small.eval_period);
    let mut schedule = points.schedule(manifest.len() as u64).unwrap();
    let mut exposed = SeenClasses::default();
    let mut exposed_after_task = vec![0; manifest.tasks.len()];
    let mut seen = 0;
    let mut evaluations = Vec::new();
    for (task, range) in manifest.batches(small.batch_size) {
        for index in &manifest.task(task).unwrap().indices[range] {
            exposed.insert(labels[*index as usize]);
            seen += 1;
        }
        exposed_after_task[task.0 as usize] = exposed.len();
        if schedule.due(seen) {
            evaluations.push((seen, exposed.len()));
        }
    }
    // A task without samples exposes nothing more than the one before.
    let mut before = 0;
    for exposed in &mut exposed_after_task {
        before = before.max(*exposed);
        *exposed = before;
    }
    assert_eq!(evaluations, small.eval_points_samples_and_exposed);
    assert_eq!(exposed_after_task, small.exposed_after_task);
}

#[test]
fn large_si_blurry_streams_match() {
    let file: SiBlurryFile = json("si_blurry.json");
    assert!(!file.large.is_empty());
    for large in file.large {
        let classes = large.case.num_classes;
        let label = |i: usize| match large.layout.as_str() {
            "interleaved" => i % classes,
            "sorted" => i / large.samples_per_class,
            other => panic!("unknown layout {other}"),
        };
        let samples = 0..classes * large.samples_per_class;
        let labels: Vec<ClassId> = samples.map(|i| ClassId(label(i) as u32)).collect();
        let manifest = large.case.check(&labels);
        for (t, (_, task)) in manifest.tasks().enumerate() {
            let first = &large.first20[t];
            assert_eq!(&task.indices[..first.len()], first);
            assert!(task.indices.ends_with(&large.last5[t]));
        }
    }
}

#[test]
fn what_seed_1_moves_is_as_published() {
    let labels: Vec<ClassId> = (0..50_000).map(|i| ClassId(i % 100)).collect();
    let parts = SiBlurry::default().draw(&labels, 100, 1).unwrap();
    assert_eq!(parts.quotas, [50, 333, 264, 1528, 325]);
    assert_eq!(parts.moved, [50, 333, 0, 1528, 325]);
    assert_eq!(parts.received, [50, 333, 264, 1528, 61]);
}

#[test]
fn the_official_number_of_evaluations_comes_out() {
    let labels: Vec<ClassId> = (0..50_000).map(|i| ClassId(i % 100)).collect();
    for seed in 1..=5 {
        let manifest = SiBlurry::default().compile(&labels, 100, seed).unwrap();
        let count = |points: EvalPoints| {
            let mut schedule = points.schedule(manifest.len() as u64).unwrap();
            let mut seen = 0;
            let due = manifest.batches(64).filter(|(_, range)| {
                seen += range.len() as u64;
                schedule.due(seen)
            });
            due.count()
        };
        assert_eq!(count(EvalPoints::Period(1000)), 49);
        assert_eq!(count(EvalPoints::default()), 50);
    }
}

#[test]
fn splits_of_any_order_hold_every_sample_once() {
    let file = golden("class_order.safetensors");
    let tensors = SafeTensors::deserialize(&file).unwrap();
    for size in words(&tensors, "sizes") {
        let labels: Vec<ClassId> = (0..3 * size).map(|i| ClassId(i % size)).collect();
        let scenario = SplitTasks::even(5.min(size as usize))
            .unwrap()
            .with_order(ClassOrder::Python)
            .unwrap();
        let manifest = scenario.compile(&labels, size as usize, 42).unwrap();
        manifest.validate(&labels).unwrap();
        let order: Vec<ClassId> = manifest
            .tasks
            .iter()
            .flat_map(|t| t.classes.clone())
            .collect();
        assert_eq!(
            order,
            ClassOrder::Python.classes(size as usize, 42).unwrap()
        );
        assert_eq!(manifest.len(), labels.len());
    }
}
