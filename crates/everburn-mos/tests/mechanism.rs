//! What MOS is made of, each part on its own: losses, statistics, alignment, memory, settings.
#![allow(clippy::unwrap_used, missing_docs)]

mod toy;

use burn::tensor::{Tensor, TensorData};
use everburn_backend::{Rule, Schedule, param_bytes, to_vec};
use everburn_core::{ClassId, Event, Key, Learner, Source, TaskId, TaskInfo};
use everburn_mos::{Classifiers, Merging, Mos, MosConfig, Retrieval, orthogonality};
use everburn_nn::{
    AlignmentConfig, BackbonePart, ClassMeans, Covariance, PetConfig, Tuning, cross_entropy,
    targets,
};
use everburn_testkit::drive::{Action, Flow, feed, script, toy_task};
use toy::{
    SMALL, actions, all_images, config, cpu, features, frozen, learner, near, scores, tasks,
    taught, values, values_of_head, with,
};

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
fn nothing_is_collected_that_nobody_uses() {
    let config = MosConfig {
        orthogonality: 0.0,
        classifiers: Classifiers::Head,
        retrieval: Retrieval::Latest,
        alignment: AlignmentConfig {
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
            c.recipe.unfrozen = vec![BackbonePart::Norms]
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
