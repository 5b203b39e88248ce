//! Features from the store: the bits that would be computed, and for nothing that is augmented or tuned.
#![allow(clippy::unwrap_used)]

use everburn_backend::{Device, DeviceChoice, Rule, to_vec};
use everburn_cache::{FeatureStore, Limits};
use everburn_core::{ClassId, ImageShape, Images, Key, View};
use everburn_nn::{Augment, Backbone, Frozen, Network, Training, Tuning};

fn cpu() -> Device {
    DeviceChoice::CPU.open().unwrap()
}

fn frozen() -> Frozen {
    Frozen::new(Backbone::embedded(&cpu()).unwrap(), &cpu())
}

fn images(count: usize) -> Images {
    let shape = ImageShape::new(32, 32, 3);
    let byte = |i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8;
    let bytes = (count * shape.bytes()) as u32;
    Images::new(shape, (0..bytes).map(byte).collect()).unwrap()
}

fn features(frozen: &Frozen, images: &Images) -> Vec<f32> {
    to_vec(&frozen.features(images).unwrap()).unwrap()
}

/// A store that says 1000 for every feature of these images.
fn poisoned(images: &Images) -> Frozen {
    let frozen = frozen();
    let rows = vec![1000.0; images.len() * frozen.backbone().dim()];
    frozen.store().put(images.keys(), &rows).unwrap();
    frozen
}

#[test]
fn a_feature_has_the_same_bits_whoever_was_computed_with_it() {
    let images = images(70);
    let all = frozen();
    all.warm(&images, |_, _| true).unwrap();
    let expected = features(&all, &images);
    for order in [
        vec![3],
        vec![69, 3, 5, 3],
        (0..70).rev().collect::<Vec<_>>(),
    ] {
        let some = images.select(&order).unwrap();
        let other = frozen();
        other.warm(&some, |_, _| true).unwrap();
        let found = features(&other, &some);
        for (index, row) in order.iter().zip(found.chunks_exact(128)) {
            assert!(
                row == &expected[index * 128..(index + 1) * 128],
                "image {index}"
            );
        }
    }
}

#[test]
fn a_second_process_finds_them_on_the_disk() {
    let (images, root) = (images(9), tempfile::tempdir().unwrap());
    let open = || {
        let frozen = frozen();
        let name = frozen.extractor("this test");
        let store = FeatureStore::open(root.path(), &name, 128, Limits::default()).unwrap();
        frozen.with_store(store).unwrap()
    };
    let first = open();
    let mut seen = Vec::new();
    first
        .warm(&images.select(&[0, 1, 2]).unwrap(), |done, of| {
            seen.push((done, of));
            true
        })
        .unwrap();
    assert_eq!(seen, [(0, 3), (3, 3)]);
    let (second, mut seen) = (open(), Vec::new());
    second
        .warm(&images, |done, of| {
            seen.push((done, of));
            true
        })
        .unwrap();
    assert_eq!(seen, [(3, 9), (9, 9)]);
    let (third, mut seen) = (open(), Vec::new());
    third
        .warm(&images, |done, of| {
            seen.push((done, of));
            true
        })
        .unwrap();
    assert_eq!(seen, [(9, 9)]);
    let memory = frozen();
    memory.warm(&images, |_, _| true).unwrap();
    assert!(features(&third, &images) == features(&memory, &images));
}

#[test]
fn filling_stops_when_told_and_keeps_what_it_has() {
    let (images, frozen) = (images(130), frozen());
    frozen.warm(&images, |done, _| done < 64).unwrap();
    assert_eq!(frozen.store().missing(images.keys()).len(), 66);
}

#[test]
fn the_name_says_all_that_decides_a_feature() {
    let name = frozen().extractor("code");
    assert_eq!(name, frozen().extractor("code"));
    assert_ne!(name, frozen().extractor("other code"));
    let key = Key::from_seed(0);
    let other = Backbone::vit(
        everburn_nn::vit::VitConfig::micro4_32(),
        everburn_nn::Normalise::HALF,
        key,
        &cpu(),
    );
    assert_ne!(name, Frozen::new(other.unwrap(), &cpu()).extractor("code"));
    let error = frozen()
        .with_store(FeatureStore::in_memory(7))
        .unwrap_err()
        .to_string();
    assert!(error.contains('7') && error.contains("128"), "{error}");
}

fn network(frozen: Frozen, tuning: Tuning, augment: Augment) -> Network {
    let training = Training {
        rule: Rule::sgd(0.0),
        head_rate: 0.1,
        backbone_rate: 0.1,
        pet_rate: None,
        weight_decay: 0.0,
        clipping: None,
    };
    let mut net = Network::new(
        frozen,
        tuning,
        &training,
        augment,
        Key::from_seed(1),
        &cpu(),
    )
    .unwrap();
    net.see(&[ClassId(0), ClassId(1)]);
    net
}

#[test]
fn what_is_augmented_or_tuned_never_comes_from_the_store() {
    let images = images(4);
    let labels = [0, 1, 0, 1].map(ClassId);
    let augment = Augment::pad_crop_flip();
    // Whether a step and a prediction are the same with wrong features in the store as without a store.
    let ignores = |tuning: Tuning, augment: Augment, view: View| {
        let outcome = |frozen: Frozen| {
            let mut net = network(frozen, tuning, augment);
            let loss = net.step(&images, &labels, view, Key::from_seed(2)).unwrap();
            let state = net.save().unwrap();
            (loss, state)
        };
        outcome(poisoned(&images)) == outcome(frozen())
    };
    assert!(ignores(Tuning::Frozen, augment, View::Train));
    assert!(ignores(Tuning::Full, Augment::default(), View::Train));
    assert!(ignores(Tuning::Full, Augment::default(), View::Test));
    assert!(ignores(Tuning::Full, augment, View::Train));
    // And where nothing is changed, it does: the check can fail.
    assert!(!ignores(Tuning::Frozen, augment, View::Test));
    assert!(!ignores(Tuning::Frozen, Augment::default(), View::Train));
    let predictions = |tuning, frozen: Frozen| {
        let net = network(frozen, tuning, Augment::default());
        net.predict(&images).unwrap()
    };
    assert!(predictions(Tuning::Full, poisoned(&images)) == predictions(Tuning::Full, frozen()));
    assert!(
        predictions(Tuning::Frozen, poisoned(&images)) != predictions(Tuning::Frozen, frozen())
    );
}
