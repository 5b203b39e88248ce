//! Retrieval, ensemble, and what is computed for them.
#![allow(clippy::unwrap_used, missing_docs)]

mod toy;

use burn::tensor::{Tensor, TensorData};
use everburn_backend::to_vec;
use everburn_core::{ClassId, Ctx, Event, Images, Key, Learner};
use everburn_mos::{Classifiers, Mos, MosConfig, Retrieval, Retrieved, ensemble};
use everburn_nn::pet::{AdaptFormerConfig, Blocks};
use everburn_nn::{Pet, PetConfig, Similarity};
use everburn_testkit::drive::{Action, Flow, feed, toy_task};
use toy::{
    SMALL, actions, all_images, config, cpu, features, learner, lora, near, scores, tasks, taught,
    third, with,
};

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
fn classes_that_were_announced_alone_have_no_part_in_predictions() {
    let (mut learner, images) = (taught(&config(), 2), all_images());
    let before = scores(&learner, &images);
    let task = third();
    let cx = Ctx::new(Key::from_seed(5));
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
