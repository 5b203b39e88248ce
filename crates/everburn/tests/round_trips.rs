//! No step waits for an asynchronous device. A file of its own, since reads are counted for the
//! whole process.
#![allow(clippy::unwrap_used)]

use everburn::backend::{Clipping, Rule, is_asynchronous, reads};
use everburn::core::{ClassId, ImageShape, Images, Key, View};
use everburn::nn::vit::VitConfig;
use everburn::nn::{Augment, Backbone, Frozen, Network, Normalise, Training, Tuning};
use everburn_testkit::test_devices;

#[test]
fn losses_are_read_every_32_steps() {
    let config = VitConfig {
        image: 8,
        patch: 4,
        dim: 8,
        depth: 1,
        heads: 2,
        hidden: 16,
    };
    let training = Training {
        rule: Rule::adam(),
        head_rate: 0.01,
        backbone_rate: 0.01,
        pet_rate: None,
        weight_decay: 0.0,
        clipping: Some(Clipping { max_norm: 1.0 }),
    };
    let shape = ImageShape::new(8, 8, 3);
    let images = Images::new(shape, (0..2 * shape.bytes()).map(|i| i as u8).collect()).unwrap();
    let labels = [ClassId(0), ClassId(1)];
    for (choice, device) in test_devices() {
        let key = Key::from_seed(1);
        let backbone = Backbone::vit(config.clone(), Normalise::HALF, key, &device).unwrap();
        let frozen = Frozen::new(backbone, &device);
        let augment = Augment::pad_crop_flip();
        for tuning in [Tuning::Frozen, Tuning::Full] {
            let frozen = frozen.clone();
            let mut net = Network::new(frozen, tuning, &training, augment, key, &device).unwrap();
            net.see(&labels);
            let before = reads();
            let mut losses = Vec::new();
            for step in 0..64 {
                losses.extend(
                    net.step(&images, &labels, View::Train, key.at(step))
                        .unwrap(),
                );
            }
            let expected = if is_asynchronous(&device) { 2 } else { 64 };
            assert_eq!(
                (reads() - before, losses.len() as u64),
                (expected, expected),
                "{choice}"
            );
            assert!(losses.iter().all(|loss| loss.is_finite()));
            // What has not been read yet still stops a network that has diverged.
            let diverging = Training {
                head_rate: 3e38,
                ..training.clone()
            };
            let diverging = Training {
                rule: Rule::sgd(0.0),
                clipping: None,
                ..diverging
            };
            let frozen = Frozen::new(
                Backbone::vit(config.clone(), Normalise::HALF, key, &device).unwrap(),
                &device,
            );
            let mut net =
                Network::new(frozen, tuning, &diverging, Augment::default(), key, &device).unwrap();
            net.see(&labels);
            let mut read = Vec::new();
            for step in 0..8 {
                read.extend(
                    net.step(&images, &labels, View::Train, key.at(step))
                        .unwrap(),
                );
            }
            if is_asynchronous(&device) {
                assert!(read.is_empty());
                for message in [net.save().unwrap_err(), net.predict(&images).unwrap_err()] {
                    assert!(message.to_string().contains("diverged"), "{message}");
                }
            } else {
                assert!(read.iter().any(|loss| !loss.is_finite()), "{read:?}");
            }
        }
    }
}
