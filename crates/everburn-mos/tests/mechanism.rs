//! What MOS is made of, each part on its own: merging, stored sets, alignment, prototypes, retrieval and ensemble.
#![allow(clippy::unwrap_used, missing_docs)]

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use everburn_backend::{Device, DeviceChoice, Rule, Schedule, param_bytes, save_params, to_vec};
use everburn_core::{
    ClassId, Event, ImageShape, Images, Key, Learner, Source, State, TaskId, TaskInfo, Values,
};
use everburn_mos::{
    Classifiers, Merging, Mos, MosConfig, Retrieval, Retrieved, ensemble, mean_with, merged,
    merged_block_by_block, orthogonality,
};
use everburn_nn::pet::{AdaptFormerConfig, Blocks, LoraConfig};
use everburn_nn::{
    ClassMeans, Covariance, Frozen, Pet, PetConfig, Preset, Setting, Similarity, Tuning,
    cross_entropy, targets,
};
use everburn_testkit::drive::{Action, Flow, Task, feed, script, toy_task, toy_vit};

const SMALL: ImageShape = ImageShape::new(8, 8, 3);
/// Blocks of [`frozen`].
const DEPTH: usize = 2;

fn cpu() -> Device {
    DeviceChoice::CPU.open().unwrap()
}

fn frozen() -> Frozen {
    let backbone = toy_vit(SMALL.height, Key::from_seed(1), &cpu()).unwrap();
    Frozen::new(backbone, &cpu())
}

/// Small and fast, so that a few steps move adapters.
fn config() -> MosConfig {
    let mut config = MosConfig::preset(&Setting {
        preset: Preset::Cpu,
        tuning: Tuning::Pet,
        from_scratch: false,
    });
    config.recipe.batch = 4;
    config.recipe.online_batch = 4;
    config.recipe.epochs = 2;
    config.recipe.schedule = Schedule::Constant;
    config.recipe.training.backbone_rate = 1.0;
    config.recipe.training.head_rate = 0.1;
    config.alignment.epochs = 2;
    config.alignment.samples_per_class = 8;
    config
}

fn learner(config: &MosConfig) -> Mos {
    Mos::new(config.clone(), frozen(), Key::from_seed(2)).unwrap()
}

fn tasks() -> Vec<Task> {
    let task = |classes: &[u32], number| toy_task(SMALL, classes, 8, Key::from_seed(number));
    vec![task(&[26, 2], 1), task(&[18, 6], 2), task(&[9, 11], 3)]
}

fn actions(learner: &Mos, tasks: &[Task]) -> Vec<Action> {
    script(learner, tasks, Flow::Tasks, Key::from_seed(3))
}

fn lora() -> PetConfig {
    PetConfig::Lora(LoraConfig {
        blocks: Blocks::All,
        ..LoraConfig::default()
    })
}

/// A learner that has been taught so many tasks.
fn taught(config: &MosConfig, count: usize) -> Mos {
    let mut learner = learner(config);
    feed(
        &mut learner,
        &tasks()[..count],
        Flow::Tasks,
        Key::from_seed(3),
    );
    learner
}

/// The state before the first step of a task, and that step.
fn before_step(config: &MosConfig, task: u32) -> (State, Action) {
    let mut learner = learner(config);
    for action in actions(&learner, &tasks()) {
        if let Action::Observe(_, step, _) = &action
            && step.task == Some(TaskId(task))
        {
            return (learner.save().unwrap(), action);
        }
        action.apply(&mut learner).unwrap();
    }
    panic!("no step of task {task}");
}

/// The same state under other settings.
fn with(learner: &Mos, config: &MosConfig) -> Mos {
    let mut other = self::learner(config);
    other.restore(&learner.save().unwrap()).unwrap();
    other
}

fn all_images() -> Images {
    let mut images = tasks()[0].images.clone();
    for task in &tasks()[1..] {
        images.extend(&task.images).unwrap();
    }
    images
}

/// All parameters of a set, one after another.
fn values(pet: &Pet) -> Vec<f32> {
    let state = save_params(pet).unwrap();
    let arrays = state.arrays.values();
    arrays
        .flat_map(|array| match &array.values {
            Values::F32(values) => values.clone(),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn scores(learner: &Mos, images: &Images) -> Vec<f32> {
    learner.predict(images).unwrap().scores().to_vec()
}

fn near(found: &[f32], expected: &[f32], by: f32) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= by, "{found} and {expected}");
    }
}

#[derive(Module, Debug)]
struct One {
    value: Param<Tensor<1>>,
}

fn one(value: f32) -> One {
    One {
        value: Param::from_tensor(Tensor::from_data(TensorData::new(vec![value], [1]), &cpu())),
    }
}

fn number(one: &One) -> f32 {
    to_vec(&one.value.val()).unwrap()[0]
}

#[test]
fn merging_by_hand_for_three_tasks() {
    // Task 0 ends at 2; task 1 draws 7 to it, 0.9·7 + 0.1·2 = 6.5, and ends at 4 for another reason.
    let mean = one(2.0);
    assert!((number(&merged(one(7.0), &mean, 0.1, 1).unwrap()) - 6.5).abs() < 1e-6);
    // In task 2 the mean is (2 + 4)/2.
    let mean = mean_with(mean, 1, &one(4.0)).unwrap();
    assert!((number(&mean) - 3.0).abs() < 1e-6);
    assert!((number(&merged(one(1.0), &mean, 0.1, 1).unwrap()) - 1.2).abs() < 1e-6);
    // And (2 + 4 + 9)/3 afterwards.
    let after = mean_with(mean.clone(), 2, &one(9.0)).unwrap();
    assert!((number(&after) - 5.0).abs() < 1e-6);

    // n merges leave (1 − α)ⁿ of the distance: 0.28243 after 12, 0.25419 after 13.
    for (times, left) in [(12, 0.28243), (13, 0.25419)] {
        let found = number(&merged(one(1.0), &mean, 0.1, times).unwrap());
        assert!((found - (3.0 - 2.0 * left)).abs() < 1e-5);
    }
    assert_eq!(number(&merged(one(1.0), &mean, 0.0, 13).unwrap()), 1.0);
    assert_eq!(number(&merged(one(1.0), &mean, 1.0, 1).unwrap()), 3.0);
    assert_eq!(number(&merged(one(3.0), &mean, 0.25, 1).unwrap()), 3.0);
}

#[test]
fn a_step_of_the_third_task_is_drawn_to_the_mean_of_the_first_two() {
    let (none, paper) = (Merging::None, Merging::Paper { alpha: 0.1 });
    let of = |merging| MosConfig {
        merging,
        ..config()
    };
    let learner = taught(&of(paper), 2);
    let sets: Vec<Vec<f32>> = learner.adapters().iter().map(values).collect();
    let mean = values(learner.mean().unwrap());
    let halves: Vec<f32> = sets[0]
        .iter()
        .zip(&sets[1])
        .map(|(a, b)| (a + b) / 2.0)
        .collect();
    near(&mean, &halves, 1e-6);
    // The working set goes on from the last.
    assert_eq!(values(learner.network().pet().unwrap()), sets[1]);

    let (state, action) = before_step(&of(paper), 2);
    let one_step = |merging| {
        let mut learner = self::learner(&of(merging));
        learner.restore(&state).unwrap();
        action.apply(&mut learner).unwrap();
        values(learner.network().pet().unwrap())
    };
    let (plain, drawn) = (one_step(none), one_step(paper));
    assert_ne!(plain, sets[1]);
    let expected = plain.iter().zip(&mean);
    let expected: Vec<f32> = expected.map(|(a, m)| 0.9 * a + 0.1 * m).collect();
    near(&drawn, &expected, 1e-6);
}

#[test]
fn drawn_all_the_way_all_sets_are_the_first() {
    let config = MosConfig {
        merging: Merging::Paper { alpha: 1.0 },
        ..config()
    };
    let learner = taught(&config, 3);
    let sets: Vec<Vec<f32>> = learner.adapters().iter().map(values).collect();
    let begun = values(self::learner(&config).network().pet().unwrap());
    assert_ne!(sets[0], begun);
    near(&sets[1], &sets[0], 1e-6);
    near(&sets[2], &sets[0], 1e-6);
    // And without merging they are all different.
    let free = taught(
        &MosConfig {
            merging: Merging::None,
            ..config
        },
        3,
    );
    let sets: Vec<Vec<f32>> = free.adapters().iter().map(values).collect();
    assert!(sets[0] != sets[1] && sets[1] != sets[2]);
    assert!(free.mean().is_none());
}

#[test]
fn the_released_code_leaves_less_of_a_set_at_each_step_and_in_the_statistics() {
    let alpha = 0.1;
    let mut config = config();
    let trained = taught(&config, 2);
    // Nothing but merging moves adapters.
    config.merging = Merging::Released { alpha };
    config.recipe.training.backbone_rate = 0.0;
    let mut learner = with(&trained, &config);
    let (start, mean) = (
        values(learner.network().pet().unwrap()),
        values(learner.mean().unwrap()),
    );
    let expected = |merges: usize| -> Vec<f32> {
        let left = (1.0 - alpha).powi(merges as i32) as f32;
        let pairs = start.iter().zip(&mean);
        pairs.map(|(a, m)| m + left * (a - m)).collect()
    };
    let task = TaskInfo {
        task: TaskId(2),
        classes: vec![ClassId(9), ClassId(11)],
        seen: 6,
        samples: 16,
        single_pass: false,
    };
    let third = [tasks().remove(2)];
    let (mut trained, mut collected, mut stage) = (0, 0, String::new());
    for action in script(&learner, &third, Flow::Tasks, Key::from_seed(3)) {
        let action = match action {
            Action::On(Event::TaskBegin(_), cx) => Action::On(Event::TaskBegin(task.clone()), cx),
            other => other,
        };
        if let Action::On(Event::StageBegin(next), _) = &action {
            stage.clone_from(&next.name);
        }
        action.apply(&mut learner).unwrap();
        let Action::Observe(..) = action else {
            continue;
        };
        match &*stage {
            // Once before each block, once after the step.
            "train" => trained += DEPTH + 1,
            "statistics" => collected += DEPTH,
            _ => continue,
        }
        let found = values(learner.network().pet().unwrap());
        near(&found, &expected(trained + collected), 1e-5);
    }
    assert_eq!((trained, collected), (2 * 4 * (DEPTH + 1), 2 * DEPTH));
    // What the released code's evaluation makes of a set is the mean of those before; the mean of all has its true end.
    let sets = learner.adapters();
    near(&values(&sets[2]), &mean, 1e-6);
    let end = expected(trained);
    let three: Vec<f32> = mean
        .iter()
        .zip(&end)
        .map(|(m, a)| (2.0 * m + a) / 3.0)
        .collect();
    near(&values(learner.mean().unwrap()), &three, 1e-5);
}

#[test]
fn a_forward_pass_of_the_released_code_merges_before_each_block() {
    let (device, vit) = (cpu(), frozen());
    let vit = vit.backbone().as_vit().unwrap();
    let kind = config().recipe.pet.unwrap();
    let pet = |seed| Pet::new(&kind, vit, Key::from_seed(seed), &device).unwrap();
    let (working, mean) = (pet(1), pet(2));
    let merged = merged_block_by_block(working.clone(), &mean, 0.1).unwrap();
    for number in 0..DEPTH {
        let of = |pet: &Pet| save_params(&pet.blocks[number]).unwrap();
        let (working, mean, merged) = (of(&working), of(&mean), of(&merged));
        let left = 0.9_f32.powi(number as i32 + 1);
        for (name, array) in &merged.arrays {
            let of = |state: &State| match &state.arrays[name].values {
                Values::F32(values) => values.clone(),
                other => panic!("{other:?}"),
            };
            let pairs = of(&working).into_iter().zip(of(&mean));
            let expected: Vec<f32> = pairs.map(|(a, m)| m + left * (a - m)).collect();
            let Values::F32(found) = &array.values else {
                panic!("{name}");
            };
            near(found, &expected, 1e-6);
        }
    }
}

#[test]
fn stored_sets_never_change_again() {
    for merging in [
        Merging::None,
        Merging::Paper { alpha: 0.1 },
        Merging::Released { alpha: 0.1 },
    ] {
        let mut learner = learner(&MosConfig {
            merging,
            ..config()
        });
        let images = all_images();
        let mut stored: Vec<Vec<f32>> = Vec::new();
        for action in actions(&learner, &tasks()) {
            action.apply(&mut learner).unwrap();
            let sets: Vec<Vec<f32>> = learner.adapters().iter().map(values).collect();
            assert_eq!(sets[..stored.len()], stored, "{merging:?}");
            if sets.len() > stored.len() && matches!(merging, Merging::Paper { .. }) {
                // A copy of what the task has learnt, from which the next begins.
                let working = values(learner.network().pet().unwrap());
                assert_eq!(sets.last(), Some(&working));
            }
            stored = sets;
            if matches!(action, Action::On(Event::TaskEnd(_), _)) {
                let before = learner.save().unwrap();
                for _ in 0..3 {
                    learner.predict(&images).unwrap();
                }
                assert_eq!(learner.save().unwrap(), before, "{merging:?}");
            }
        }
        assert_eq!(stored.len(), 3);
    }
}

#[test]
fn with_one_task_it_predicts_as_its_adapters_do() {
    let config = config();
    let learner = taught(&config, 1);
    let (images, net) = (all_images(), learner.network());
    let plain = net.predict(&images).unwrap();
    for retrieval in [Retrieval::default(), Retrieval::Latest] {
        let head = MosConfig {
            classifiers: Classifiers::Head,
            retrieval,
            ..config.clone()
        };
        let found = with(&learner, &head).predict(&images).unwrap();
        assert_eq!(found.classes(), plain.classes());
        near(found.scores(), plain.scores(), 1e-6);
    }
    for found in learner.retrieve(&images).unwrap() {
        assert_eq!((found.first(), found.last(), found.rounds()), (0, 0, 1));
    }
    // Both classifiers look through the same adapters.
    let features = to_vec(&net.features(&images).unwrap()).unwrap();
    let cosines = (learner.prototypes())
        .scores(&features, Similarity::Cosine)
        .unwrap();
    let expected = ensemble(plain.scores(), &cosines, 2, 1);
    near(&scores(&learner, &images), &expected, 1e-6);
    for row in expected.chunks(2) {
        assert!((row.iter().sum::<f32>() - 2.0).abs() < 1e-5);
    }
}

/// Features of images under a set, by the plain forward pass.
fn features(learner: &Mos, images: &Images, pet: &Pet) -> Vec<f32> {
    let net = learner.network();
    let backbone = net.backbone();
    let vit = backbone.as_vit().unwrap();
    let pixels = backbone.normalise(backbone.load(images, &cpu()).unwrap());
    let tokens = vit.embed_with(pixels, Some(pet));
    to_vec(&vit.finish(tokens, 0, Some(pet), None)).unwrap()
}

/// What MOS is said to do, one image and one round after another, with a whole forward pass for each set.
fn naive(learner: &Mos, images: &Images, rounds: usize) -> (Vec<usize>, Vec<f32>) {
    let (net, task_of) = (learner.network(), learner.tasks().of());
    let (classes, dim, tasks) = (task_of.len(), net.backbone().dim(), learner.tasks().begun());
    let mut sets: Vec<&Pet> = learner.adapters().iter().collect();
    sets.extend(net.pet().filter(|_| tasks > learner.adapters().len()));
    assert_eq!(sets.len(), tasks);
    let largest = |row: &[f32]| {
        let places = 0..row.len();
        places
            .reduce(|best, at| if row[at] > row[best] { at } else { best })
            .unwrap()
    };
    let (mut last, mut scores) = (Vec::new(), Vec::new());
    for image in 0..images.len() {
        let image = images.select(&[image]).unwrap();
        let all: Vec<Vec<f32>> = (sets.iter())
            .map(|pet| features(learner, &image, pet))
            .collect();
        let prototypes = learner.prototypes();
        let known = prototypes.scores(&all[0], Similarity::Cosine).unwrap();
        let cosine = |class: &ClassId| prototypes.seen().index(*class).map_or(-1.0, |at| known[at]);
        let seen = &net.seen().as_slice()[..classes];
        let cosines: Vec<f32> = seen.iter().map(cosine).collect();
        let mut task = task_of[largest(&cosines)];
        let mut logits = Vec::new();
        for round in 1..=rounds {
            let data = TensorData::new(all[task].clone(), [1, dim]);
            let features = Tensor::from_data(data, &cpu());
            logits = to_vec(&net.logits(features).unwrap()).unwrap();
            let named = task_of[largest(&logits)];
            if named == task || round == rounds {
                break;
            }
            task = named;
        }
        scores.extend(ensemble(&logits, &cosines, classes, tasks));
        last.push(task);
    }
    (last, scores)
}

#[test]
fn shared_computations_give_what_a_pass_for_each_set_gives() {
    let images = all_images();
    let adaptformer = |blocks| {
        PetConfig::Adaptformer(AdaptFormerConfig {
            blocks,
            ..AdaptFormerConfig::default()
        })
    };
    let kinds = [
        (config().recipe.pet.unwrap(), 1.0),
        // The stem ends in the first block, and in the last, where the class token is alone.
        (adaptformer(Blocks::First(1)), 1.0),
        (adaptformer(Blocks::Only(vec![1])), 1.0),
        // And where nothing can be shared but what lies before.
        (lora(), 0.1),
        (PetConfig::Ssf(Default::default()), 0.1),
    ];
    let mut moved_on = 0;
    for (kind, rate) in kinds {
        let mut config = config();
        config.recipe.pet = Some(kind);
        config.recipe.training.backbone_rate = rate;
        let learner = taught(&config, 3);
        let (last, expected) = naive(&learner, &images, 4);
        let found = learner.retrieve(&images).unwrap();
        let of = found.iter().map(Retrieved::last).collect::<Vec<_>>();
        assert_eq!(of, last);
        near(&scores(&learner, &images), &expected, 1e-5);
        moved_on += found.iter().filter(|found| found.rounds() > 1).count();
    }
    assert!(moved_on > 0, "or the test would say little");
}

#[test]
fn an_image_is_found_the_same_adapters_alone() {
    let (learner, images) = (taught(&config(), 3), all_images());
    let together = learner.retrieve(&images).unwrap();
    for (image, found) in together.iter().enumerate() {
        let alone = images.select(&[image]).unwrap();
        assert_eq!(&learner.retrieve(&alone).unwrap()[0], found);
    }
}

#[test]
fn alignment_moves_the_head_alone_and_stays() {
    let config = config();
    let mut learner = learner(&config);
    let mut stage = String::new();
    let (mut aligned, mut head) = (Vec::new(), None);
    for action in actions(&learner, &tasks()) {
        if let Action::On(Event::StageBegin(next), _) = &action {
            stage.clone_from(&next.name);
        }
        let before = learner.save().unwrap();
        action.apply(&mut learner).unwrap();
        let after = learner.save().unwrap();
        match (&*stage, &action) {
            ("align", Action::Observe(_, step, _)) => {
                let names = before.below("trained").arrays.into_iter();
                let now = after.below("trained").arrays;
                for (name, array) in names {
                    assert_eq!(array == now[&name], !name.starts_with("head."), "{name}");
                }
                aligned.push(step.task.unwrap().0);
            }
            // The next task goes on from the aligned head, unlike SLCA's.
            ("align", Action::On(Event::StageEnd(_), _)) => {
                head = Some(values_of_head(&after));
            }
            ("train", Action::On(Event::StageBegin(_), _)) => {
                if let Some(head) = &head {
                    assert_eq!(values_of_head(&after)[..head.len()], head[..]);
                }
            }
            _ => {}
        }
    }
    // Two epochs of as many steps as classes, in the second and in the third task.
    let steps = |task| aligned.iter().filter(|other| **other == task).count();
    assert_eq!([0, 1, 2].map(steps), [0, 2 * 4, 2 * 6]);
}

fn values_of_head(state: &State) -> Vec<f32> {
    match &state.below("trained.head").arrays["weight"].values {
        Values::F32(values) => values.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn prototypes_are_means_under_the_first_set_and_gaussians_under_each_tasks_own() {
    let learner = taught(&config(), 3);
    let dim = learner.network().backbone().dim();
    for (number, task) in tasks().iter().enumerate() {
        let classes: Vec<ClassId> = task.labels.clone();
        let mean_under = |set: usize| {
            let mut means = ClassMeans::new(dim);
            let features = features(&learner, &task.images, &learner.adapters()[set]);
            means.add(&features, &classes).unwrap();
            means
        };
        let (first, own) = (mean_under(0), mean_under(number));
        for (place, class) in first.seen().as_slice().iter().enumerate() {
            let of = |means: &[f64], place: usize| -> Vec<f32> {
                let row = &means[place * dim..(place + 1) * dim];
                row.iter().map(|x| *x as f32).collect()
            };
            let prototypes = learner.prototypes();
            let at = prototypes.seen().index(*class).unwrap();
            near(
                &of(&prototypes.means(), at),
                &of(&first.means(), place),
                1e-5,
            );
            let gaussians = learner.gaussians();
            let at = gaussians.seen().index(*class).unwrap();
            near(&of(gaussians.means(), at), &of(&own.means(), place), 1e-5);
        }
    }
}

#[test]
fn orthogonal_rows_of_one_norm_have_the_loss_of_the_closed_form() {
    let (count, square) = (4, 2.0_f64);
    let mut rows = vec![0.0_f32; count * count];
    for row in 0..count {
        rows[row * (count + 1)] = square.sqrt() as f32;
    }
    let all = |values: &[f32], rows: usize| {
        Tensor::<2>::from_data(TensorData::new(values.to_vec(), [rows, count]), &cpu())
    };
    let expected = (1.0 + (count - 1) as f64 * (-square / 0.8).exp()).ln() as f32;
    let found = to_vec(&orthogonality(None, all(&rows, count), 0.8)).unwrap();
    near(&found, &[expected], 1e-6);
    // Means are rows like others.
    let (means, features) = rows.split_at(2 * count);
    let found = orthogonality(Some(all(means, 2)), all(features, 2), 0.8);
    near(&to_vec(&found).unwrap(), &[expected], 1e-6);
}

#[test]
fn a_step_goes_by_cross_entropy_of_the_task_and_orthogonality_to_the_means_before() {
    // No dropout, so that the loss can be computed from outside.
    let mut config = config();
    let Some(PetConfig::Adaptformer(adapter)) = &mut config.recipe.pet else {
        panic!("{:?}", config.recipe.pet);
    };
    adapter.dropout = 0.0;
    let mut learner = learner(&config);
    let mut compared = 0;
    for action in actions(&learner, &tasks()) {
        let Action::Observe(batch, step, cx) = &action else {
            action.apply(&mut learner).unwrap();
            continue;
        };
        if batch.labels.is_empty() || step.stage > 0 {
            action.apply(&mut learner).unwrap();
            continue;
        }
        let net = learner.network();
        let features = net.features(&batch.images).unwrap();
        let logits = net.logits(features.clone()).unwrap();
        let known = 2 * step.task.unwrap().0 as usize;
        let columns = batch.labels.iter().map(|c| net.seen().index(*c).unwrap());
        let local: Vec<usize> = columns.map(|column| column - known).collect();
        let ce = cross_entropy(logits.narrow(1, known, 2), targets(&local, &cpu()));
        let (means, dim) = (learner.gaussians().means(), features.dims()[1]);
        let values: Vec<f32> = means.iter().map(|x| *x as f32).collect();
        let rows = values.len() / dim;
        assert_eq!(rows, known, "means of earlier tasks alone");
        let means =
            (rows > 0).then(|| Tensor::from_data(TensorData::new(values, [rows, dim]), &cpu()));
        let apart = orthogonality(means, features, config.temperature);
        let expected = to_vec(&(ce + apart * config.orthogonality)).unwrap()[0];
        let found = learner.observe(batch, step, cx).unwrap().loss.unwrap();
        assert!((found - expected).abs() < 1e-5 * expected.abs().max(1.0));
        compared += 1;
    }
    assert_eq!(compared, 3 * 2 * 4);
}

#[test]
fn old_rows_of_the_head_get_decay_and_no_gradient() {
    let mut config = config();
    config.recipe.training.rule = Rule::sgd(0.0);
    config.recipe.training.weight_decay = 0.5;
    config.recipe.training.head_rate = 0.1;
    let mut learner = learner(&config);
    for action in actions(&learner, &tasks()) {
        let before = learner.save().unwrap();
        action.apply(&mut learner).unwrap();
        let Action::Observe(batch, step, _) = &action else {
            continue;
        };
        if batch.labels.is_empty() || step.stage > 0 || step.task != Some(TaskId(1)) {
            continue;
        }
        let (before, after) = (
            values_of_head(&before),
            values_of_head(&learner.save().unwrap()),
        );
        let old = before.len() / 2;
        let decayed: Vec<f32> = before[..old]
            .iter()
            .map(|x| x * (1.0 - 0.1 * 0.5))
            .collect();
        near(&after[..old], &decayed, 1e-6);
        assert_ne!(before[old..], after[old..]);
    }
}

#[test]
fn each_classifier_may_predict_alone() {
    let learner = taught(&config(), 3);
    let (images, dim) = (all_images(), learner.network().backbone().dim());
    let of = |classifiers| {
        let config = MosConfig {
            classifiers,
            ..config()
        };
        scores(&with(&learner, &config), &images)
    };
    let prototypes = of(Classifiers::Prototypes);
    let under_first = features(&learner, &images, &learner.adapters()[0]);
    let expected = learner
        .prototypes()
        .scores(&under_first, Similarity::Cosine);
    near(&prototypes, &expected.unwrap(), 1e-5);
    let head = of(Classifiers::Head);
    for (image, found) in learner.retrieve(&images).unwrap().iter().enumerate() {
        let image_alone = images.select(&[image]).unwrap();
        let under = features(&learner, &image_alone, &learner.adapters()[found.last()]);
        let data = TensorData::new(under, [1, dim]);
        let logits = learner
            .network()
            .logits(Tensor::from_data(data, &cpu()))
            .unwrap();
        near(&head[image * 6..][..6], &to_vec(&logits).unwrap(), 1e-4);
    }
}

#[test]
fn nothing_is_collected_that_nobody_uses() {
    let config = MosConfig {
        orthogonality: 0.0,
        classifiers: Classifiers::Head,
        retrieval: Retrieval::Latest,
        alignment: everburn_nn::AlignmentConfig {
            epochs: 0,
            ..config().alignment
        },
        ..config()
    };
    let learner = taught(&config, 2);
    assert!(learner.gaussians().seen().is_empty() && learner.prototypes().seen().is_empty());
    let task = TaskInfo {
        task: TaskId(2),
        classes: vec![ClassId(9)],
        seen: 5,
        samples: 8,
        single_pass: false,
    };
    let stages = learner.stages(Some(&task));
    assert!(stages.len() == 1 && stages[0].source == Source::Task);
    // Where only means count, no covariance is kept in full.
    let means_alone = MosConfig {
        orthogonality: 0.1,
        ..config
    };
    let kept = taught(&means_alone, 2).gaussians().covariance(0);
    let dim = learner.network().backbone().dim();
    assert!((0..dim).all(|d| (0..dim).all(|e| d == e || kept[d * dim + e] == 0.0)));
    assert_eq!(means_alone.covariance, Covariance::Full);
}

#[test]
fn memory_grows_by_a_set_and_the_statistics_of_its_classes() {
    let mut learner = learner(&config());
    let one = param_bytes(learner.network().pet().unwrap());
    for action in actions(&learner, &tasks()) {
        action.apply(&mut learner).unwrap();
        let Action::On(Event::TaskEnd(task), _) = &action else {
            continue;
        };
        let tasks = u64::from(task.task.0) + 1;
        let footprint = learner.footprint();
        let of = |name: &str| {
            let mut all = footprint.memory.iter();
            all.find(|memory| memory.name == name).unwrap().bytes
        };
        assert_eq!(of("adapters of tasks learnt"), tasks * one);
        assert_eq!(of("mean of adapters"), one);
        assert_eq!(of("prototypes"), 2 * tasks * 8 * (16 + 1));
        assert_eq!(of("class covariances"), 2 * tasks * 2 * 16 * 17);
    }
}

#[test]
fn classes_that_were_announced_alone_have_no_part_in_predictions() {
    let (mut learner, images) = (taught(&config(), 2), all_images());
    let before = scores(&learner, &images);
    let task = TaskInfo {
        task: TaskId(2),
        classes: vec![ClassId(9), ClassId(11)],
        seen: 6,
        samples: 16,
        single_pass: false,
    };
    let cx = everburn_core::Ctx::new(Key::from_seed(5));
    learner.on(&Event::TaskBegin(task), &cx).unwrap();
    let after = learner.predict(&images).unwrap();
    assert_eq!(after.classes().len(), 6);
    for (row, before) in after.rows().zip(before.chunks(4)) {
        near(&row[..4], before, 1e-6);
        assert_eq!(row[4..], [0.0, 0.0]);
    }
    // And the next task may be another one.
    let other = [toy_task(SMALL, &[3, 4], 8, Key::from_seed(9))];
    feed(&mut learner, &other, Flow::Tasks, Key::from_seed(6));
    assert_eq!(learner.adapters().len(), 3);
    assert_eq!(learner.predict(&images).unwrap().classes().len(), 8);
}

#[test]
fn one_batch_over_sets_is_what_each_set_gives() {
    let (device, learner) = (cpu(), taught(&config(), 3));
    let (net, images) = (learner.network(), all_images());
    let stem = net.stem(&images).unwrap();
    let sets: Vec<&Pet> = learner.adapters().iter().collect();
    let mut order = Key::from_seed(1).permutation(images.len() * 3);
    order.truncate(40);
    let pairs: Vec<(usize, usize)> = order.iter().map(|n| (n / 3, n % 3)).collect();
    let found = to_vec(&net.features_by(&stem, &sets, &pairs).unwrap()).unwrap();
    let whole: Vec<Vec<f32>> = sets
        .iter()
        .map(|pet| to_vec(&net.features_with(&stem, pet).unwrap()).unwrap())
        .collect();
    let dim = net.backbone().dim();
    let rows = pairs
        .iter()
        .map(|(image, set)| &whole[*set][image * dim..][..dim]);
    near(&found, &rows.collect::<Vec<_>>().concat(), 1e-5);
    for wrong in [(images.len(), 0), (0, 3)] {
        assert!(net.features_by(&stem, &sets, &[wrong]).is_err());
    }
    // Sets of another kind do not fit this stem.
    let vit = net.backbone().as_vit().unwrap();
    let lora = Pet::new(&lora(), vit, Key::from_seed(1), &device).unwrap();
    assert!(net.features_by(&stem, &[&lora], &[(0, 0)]).is_err());
    assert!(net.features_with(&stem, &lora).is_err());
}

#[test]
fn settings_out_of_their_domain_are_refused_by_name() {
    type Change = fn(&mut MosConfig);
    let wrong: [(&str, Change); 7] = [
        ("merging.alpha", |c| {
            c.merging = Merging::Paper { alpha: 1.5 }
        }),
        ("orthogonality", |c| c.orthogonality = -0.1),
        ("temperature", |c| c.temperature = 0.0),
        ("jitter", |c| c.jitter = f64::NAN),
        ("retrieval.rounds", |c| {
            c.retrieval = Retrieval::Refined { rounds: 0 }
        }),
        ("recipe.tuning", |c| c.recipe.tuning = Tuning::Full),
        ("recipe.unfrozen", |c| {
            c.recipe.unfrozen = vec![everburn_nn::BackbonePart::Norms]
        }),
    ];
    for (field, change) in wrong {
        let mut config = config();
        change(&mut config);
        let error = Mos::new(config, frozen(), Key::from_seed(1)).err().unwrap();
        assert!(error.to_string().contains(field), "{field}: {error}");
    }
}

/// The values of `exps/mos_*_in21k.json` and of the adapters in `backbone/vit_mos.py`.
#[test]
fn published_values_are_those_of_the_official_files() {
    let all = [
        (MosConfig::cifar100(), 20, 0.03, 0.003, 48, 240, 5e-4),
        (MosConfig::cub200(), 10, 0.01, 0.001, 32, 160, 5e-4),
        (MosConfig::imagenet_r(), 10, 0.05, 0.005, 16, 80, 5e-3),
        (MosConfig::imagenet_a(), 10, 0.05, 0.005, 32, 160, 5e-3),
    ];
    for (config, epochs, rate, head_rate, batch, samples, decay) in all {
        let (recipe, alignment) = (&config.recipe, &config.alignment);
        let training = &recipe.training;
        assert_eq!((recipe.epochs, recipe.batch), (epochs, batch));
        assert_eq!(
            [training.backbone_rate, training.head_rate],
            [rate, head_rate]
        );
        assert_eq!([training.weight_decay, alignment.weight_decay], [decay; 2]);
        assert_eq!(training.rule, Rule::sgd(0.9));
        assert_eq!(recipe.schedule, Schedule::Cosine { min: 0.0 });
        assert_eq!(
            (alignment.epochs, alignment.samples_per_class),
            (30, samples)
        );
        assert_eq!([alignment.rate, alignment.momentum], [0.005, 0.9]);
        assert_eq!([config.orthogonality, config.temperature], [0.1, 0.8]);
        assert_eq!(config.merging, Merging::Paper { alpha: 0.1 });
        assert_eq!(config.retrieval, Retrieval::Refined { rounds: 4 });
        assert_eq!(config.classifiers, Classifiers::Both);
        let adapter = serde_json::to_value(recipe.pet.as_ref().unwrap()).unwrap();
        assert_eq!(adapter["kind"], "adaptformer");
        assert_eq!(
            (&adapter["bottleneck"], &adapter["blocks"]),
            (&16.into(), &"all".into())
        );
        assert_eq!(
            (&adapter["scale"], &adapter["dropout"]),
            (&0.1.into(), &0.1.into())
        );
    }
    assert_eq!(MosConfig::imagenet_a().covariance, Covariance::Diagonal);
    assert_eq!(MosConfig::cifar100().covariance, Covariance::Full);
}

#[test]
fn a_step_of_the_released_code_goes_by_the_gradient_where_its_forward_pass_was() {
    let (alpha, rate, decay) = (0.1, 0.5_f32, 0.01_f32);
    let mut config = config();
    config.recipe.training.rule = Rule::sgd(0.0);
    config.recipe.training.backbone_rate = f64::from(rate);
    config.recipe.training.weight_decay = 0.0;
    config.merging = Merging::Paper { alpha };
    let (state, action) = before_step(&config, 2);
    let mut before = learner(&config);
    before.restore(&state).unwrap();
    let (working, mean) = (before.network().pet().unwrap(), before.mean().unwrap());
    let used = merged_block_by_block(working.clone(), mean, alpha).unwrap();
    let from = merged(working.clone(), mean, alpha, DEPTH).unwrap();

    // The gradient at the weights of the forward pass: a plain step from there tells it.
    config.merging = Merging::None;
    let mut there = state.clone();
    for (name, array) in save_params(&used).unwrap().arrays {
        let old = there.arrays.insert(format!("trained.pet.{name}"), array);
        assert!(old.is_some(), "{name}");
    }
    let mut plain = learner(&config);
    plain.restore(&there).unwrap();
    action.apply(&mut plain).unwrap();
    let after = values(plain.network().pet().unwrap());
    let gradient = values(&used).into_iter().zip(after);
    let gradient: Vec<f32> = gradient
        .map(|(used, after)| (used - after) / rate)
        .collect();
    assert!(gradient.iter().any(|g| g.abs() > 1e-4));

    // SGD with decay from where the forward pass ended, and one more merge.
    config.merging = Merging::Released { alpha };
    config.recipe.training.weight_decay = f64::from(decay);
    let mut released = learner(&config);
    released.restore(&state).unwrap();
    action.apply(&mut released).unwrap();
    let stepped = values(&from).into_iter().zip(gradient);
    let stepped = stepped.map(|(from, g)| from - rate * (g + decay * from));
    let expected = stepped.zip(values(mean)).map(|(a, m)| 0.9 * a + 0.1 * m);
    let found = values(released.network().pet().unwrap());
    near(&found, &expected.collect::<Vec<_>>(), 1e-6);
}

#[test]
fn statistics_of_the_released_code_are_taken_as_it_merges() {
    let alpha = 0.1;
    let config = MosConfig {
        merging: Merging::Released { alpha },
        ..config()
    };
    let mut learner = learner(&config);
    let mut stage = String::new();
    let mut compared = 0;
    for action in actions(&learner, &tasks()) {
        if let Action::On(Event::StageBegin(next), _) = &action {
            stage.clone_from(&next.name);
            // As many forward passes as in the official code.
            let three = 3 * config.recipe.batch;
            assert!(stage != "statistics" || next.batch == three);
        }
        let (Action::Observe(batch, step, _), "statistics") = (&action, &*stage) else {
            action.apply(&mut learner).unwrap();
            continue;
        };
        let class = batch.labels[0];
        let working = learner.network().pet().unwrap().clone();
        let used = match learner.adapters() {
            [_, .., mean] => merged_block_by_block(working, mean, alpha).unwrap(),
            _ => working,
        };
        let expected = features(&learner, &batch.images, &used);
        action.apply(&mut learner).unwrap();
        assert_eq!(step.epochs, 1);
        // Each class has one batch here.
        let mut close = learner.gaussians().clone();
        close.close().unwrap();
        let (place, dim) = (close.seen().index(class).unwrap(), close.dim());
        let count = expected.len() / dim;
        let mean = (0..dim).map(|d| {
            let column = expected.iter().skip(d).step_by(dim);
            column.sum::<f32>() / count as f32
        });
        let found: Vec<f32> = close.mean(place).iter().map(|x| *x as f32).collect();
        near(&found, &mean.collect::<Vec<_>>(), 1e-5);
        compared += 1;
    }
    assert_eq!(compared, 6);
}

#[test]
fn while_a_task_is_learnt_its_working_set_predicts_for_it() {
    let images = all_images();
    let mut learner = learner(&config());
    let mut compared = 0;
    for action in actions(&learner, &tasks()) {
        action.apply(&mut learner).unwrap();
        if let Action::Observe(batch, step, _) = &action
            && step.index == 2
            && !batch.labels.is_empty()
        {
            let (last, expected) = naive(&learner, &images, 4);
            let found = learner.retrieve(&images).unwrap();
            assert_eq!(found.iter().map(Retrieved::last).collect::<Vec<_>>(), last);
            near(&scores(&learner, &images), &expected, 1e-5);
            compared += 1;
        }
    }
    assert_eq!(compared, 3);
}

#[test]
fn a_task_that_was_left_before_its_end_counts_as_it_was() {
    let images = all_images();
    let mut learner = taught(&config(), 1);
    // Into the middle of the second task's training, and then the third.
    let mut steps = 0;
    for action in script(&learner, &tasks()[1..2], Flow::Tasks, Key::from_seed(3)) {
        action.apply(&mut learner).unwrap();
        steps += usize::from(matches!(action, Action::Observe(..)));
        if steps == 3 {
            break;
        }
    }
    let left = values(learner.network().pet().unwrap());
    feed(&mut learner, &tasks()[2..], Flow::Tasks, Key::from_seed(4));
    assert_eq!((learner.adapters().len(), learner.tasks().begun()), (3, 3));
    assert_eq!(values(&learner.adapters()[1]), left);
    let restored = with(&learner, &config());
    near(&scores(&restored, &images), &scores(&learner, &images), 0.0);
}

#[test]
fn a_class_that_comes_again_belongs_to_its_last_task_and_is_pooled() {
    let task = |classes: &[u32], number| toy_task(SMALL, classes, 8, Key::from_seed(number));
    let tasks = [task(&[26, 2], 1), task(&[26, 6], 2)];
    let mut learner = learner(&config());
    let mut compared = 0;
    for action in actions(&learner, &tasks) {
        let before = learner.gaussians().seen().len();
        action.apply(&mut learner).unwrap();
        if let Action::Observe(batch, step, _) = &action
            && step.task == Some(TaskId(1))
            && step.stage == 0
            && !batch.labels.is_empty()
        {
            // The loss knows the means of two classes, and takes one of them for another class.
            assert_eq!(before, 2);
            compared += 1;
        }
    }
    assert_eq!(compared, 8);
    let seen = learner.network().seen();
    assert_eq!(seen.as_slice(), [26, 2, 6].map(ClassId));
    assert_eq!(learner.tasks().of(), [1, 0, 1]);
    let gaussians = learner.gaussians();
    let count = |class| gaussians.count(gaussians.seen().index(ClassId(class)).unwrap());
    assert_eq!([26, 2, 6].map(count), [16, 8, 8]);
}

#[test]
fn the_mean_of_a_class_that_comes_again_is_no_other_row() {
    // All classes come again: nothing is there to be orthogonal to but the batch.
    let task = |number| toy_task(SMALL, &[26, 2], 8, Key::from_seed(number));
    let mut config = config();
    let Some(PetConfig::Adaptformer(adapter)) = &mut config.recipe.pet else {
        panic!("{:?}", config.recipe.pet);
    };
    adapter.dropout = 0.0;
    let mut learner = learner(&config);
    for action in actions(&learner, &[task(1), task(2)]) {
        if let Action::Observe(batch, step, cx) = &action
            && step.task == Some(TaskId(1))
        {
            let net = learner.network();
            let features = net.features(&batch.images).unwrap();
            let logits = net.logits(features.clone()).unwrap();
            let columns = batch.labels.iter().map(|c| net.seen().index(*c).unwrap());
            let columns: Vec<usize> = columns.collect();
            let ce = cross_entropy(logits, targets(&columns, &cpu()));
            let apart = orthogonality(None, features, config.temperature);
            let expected = to_vec(&(ce + apart * config.orthogonality)).unwrap()[0];
            let found = learner.observe(batch, step, cx).unwrap().loss.unwrap();
            assert!((found - expected).abs() < 1e-5 * expected.abs().max(1.0));
            return;
        }
        action.apply(&mut learner).unwrap();
    }
    panic!("no step of the second task");
}

#[test]
fn on_a_single_pass_features_are_taken_in_as_they_come() {
    let mut learner = learner(&config());
    for action in script(&learner, &tasks(), Flow::SinglePass, Key::from_seed(3)) {
        let first = learner.adapters().first().cloned();
        let known = learner.prototypes().clone();
        action.apply(&mut learner).unwrap();
        let Action::Observe(batch, ..) = &action else {
            continue;
        };
        if batch.labels.is_empty() {
            continue;
        }
        // Under A_0 as it is: the working set while the first task is learnt.
        let pet = first.as_ref().or(learner.network().pet()).unwrap();
        let mut expected = known;
        let features = features(&learner, &batch.images, pet);
        expected.add(&features, &batch.labels).unwrap();
        let of =
            |means: &ClassMeans| -> Vec<f32> { means.means().iter().map(|x| *x as f32).collect() };
        near(&of(learner.prototypes()), &of(&expected), 1e-5);
    }
    assert_eq!(learner.prototypes().seen().len(), 6);
    assert_eq!(learner.gaussians().seen().len(), 6);
}

#[test]
fn a_state_goes_on_under_another_merging() {
    let of = |merging| MosConfig {
        merging,
        ..config()
    };
    let (none, paper) = (of(Merging::None), of(Merging::Paper { alpha: 0.1 }));
    let free = taught(&none, 3);
    let merging = with(&free, &paper);
    let sets: Vec<Vec<f32>> = free.adapters().iter().map(values).collect();
    let mean = (0..sets[0].len()).map(|i| sets.iter().map(|set| set[i]).sum::<f32>() / 3.0);
    near(
        &values(merging.mean().unwrap()),
        &mean.collect::<Vec<_>>(),
        1e-6,
    );
    assert!(with(&merging, &none).mean().is_none());
}

#[test]
fn the_cost_of_a_prediction_is_that_of_the_sets_an_image_may_need() {
    let learner = taught(&config(), 3);
    let net = learner.network();
    let (one, more) = (net.footprint().macs_per_image, net.macs_behind_stem());
    let prototypes = 6 * 16;
    let cost = |classifiers, retrieval| {
        let config = MosConfig {
            classifiers,
            retrieval,
            ..config()
        };
        let macs = with(&learner, &config).footprint().macs_per_image;
        assert_eq!((macs - one) % more, prototypes % more);
        (macs - one) / more
    };
    let refined = |rounds| Retrieval::Refined { rounds };
    assert_eq!(cost(Classifiers::Both, refined(4)), 2);
    assert_eq!(cost(Classifiers::Both, refined(1)), 1);
    assert_eq!(cost(Classifiers::Head, refined(4)), 2);
    assert_eq!(cost(Classifiers::Both, Retrieval::Latest), 1);
    assert_eq!(cost(Classifiers::Head, Retrieval::Latest), 0);
    assert_eq!(cost(Classifiers::Prototypes, refined(4)), 0);
    // Behind the stem lies the second block alone, with its adapter for the class token, the first block's adapter for all, and
    // the head: 5 tokens of width 16, an MLP of 32, adapters of 16.
    let attention = 5 * 16 * 4 * 16 + 2 * 5 * 5 * 16;
    let adapters = (5 + 1) * 2 * 16 * 16;
    assert_eq!(more, attention + 2 * 16 * 32 + adapters + 6 * 16);
}
