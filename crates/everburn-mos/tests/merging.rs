//! Merging by the formula and as released, and the sets that it leaves.
#![allow(clippy::unwrap_used, missing_docs)]

mod toy;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use everburn_backend::{Rule, save_params, to_vec};
use everburn_core::{Event, Key, Learner, State, Values};
use everburn_mos::{Merging, MosConfig, mean_with, merged, merged_block_by_block};
use everburn_nn::Pet;
use everburn_testkit::drive::{Action, Flow, script};
use toy::{
    DEPTH, actions, all_images, before_step, config, cpu, features, frozen, learner, near, tasks,
    taught, third, values, with,
};

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
    let task = third();
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
