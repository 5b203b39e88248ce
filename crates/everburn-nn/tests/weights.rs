//! Weight files by their original names, and what is said of those that do not fit.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};

use burn::module::Module;
use everburn_backend::{DeviceChoice, save_params, to_vec};
use everburn_core::{ImageShape, Images, Key};
use everburn_nn::layers::Linear;
use everburn_nn::vit::VitConfig;
use everburn_nn::{Backbone, Frozen, Normalise, WeightFile, embedded_weights};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

#[derive(Module, Debug)]
struct Tiny {
    head: Linear,
}

#[test]
fn pytorch_files_are_read_by_name_and_turned() {
    let device = DeviceChoice::CPU.open().unwrap();
    for name in ["tiny.pth", "nested.pth"] {
        let file = WeightFile::open(&data(name)).unwrap();
        let names: Vec<&String> = file.tensors().keys().collect();
        assert_eq!(names, ["head.bias", "head.weight"], "{name}");
        let module = Tiny {
            head: Linear::new(3, 2, Key::from_seed(0), &device),
        };
        let (module, report) = file.load_into(module).unwrap();
        assert_eq!(report.loaded.len(), 2);
        // PyTorch's [[1, 2, 3], [4, 5, 6]] as [in, out].
        let weight = to_vec(&module.head.weight.val()).unwrap();
        assert_eq!(weight, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0], "{name}");
        assert_eq!(to_vec(&module.head.bias.val()).unwrap(), [0.5, -0.5]);
    }
}

#[test]
fn damaged_files_are_refused_with_their_name() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        (
            "cut.pth",
            std::fs::read(data("tiny.pth")).unwrap()[..200].to_vec(),
        ),
        ("cut.safetensors", vec![200, 0, 0, 0, 0, 0, 0, 0, b'{']),
        ("other.npz", vec![0; 100]),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let message = WeightFile::open(&path).unwrap_err().to_string();
        assert!(
            message.contains(name) && message.contains("expected"),
            "{message}"
        );
    }
}

#[test]
fn the_embedded_file_is_what_its_card_says() {
    let device = DeviceChoice::CPU.open().unwrap();
    let backbone = Backbone::embedded(&device).unwrap();
    assert_eq!(backbone.num_trainable(), 1_204_608);
    assert_eq!(backbone.bytes(), 4 * 1_204_608);
    assert_eq!(
        (backbone.dim(), backbone.input()),
        (128, ImageShape::new(32, 32, 3))
    );
    assert_eq!(embedded_weights().unwrap().tensors().len(), 6 * 12 + 6);
}

#[test]
fn one_network_has_one_identity_and_another_size_another() {
    let device = DeviceChoice::CPU.open().unwrap();
    let identity = |image| {
        let file = embedded_weights().unwrap();
        Backbone::vit_from_file("vit", file, image, None, &device)
            .unwrap()
            .0
            .identity()
    };
    assert_eq!(identity(None), identity(Some(32)));
    assert_ne!(identity(None), identity(Some(48)));
    let file = embedded_weights().unwrap();
    let error = Backbone::vit_from_file("vit", file, Some(30), None, &device).unwrap_err();
    assert!(error.to_string().contains("vit.patch"), "{error}");
    let heads = |heads| {
        let config = VitConfig {
            heads,
            ..VitConfig::micro4_32()
        };
        Backbone::vit(config, Normalise::HALF, Key::from_seed(1), &device)
            .unwrap()
            .identity()
    };
    assert_ne!(heads(4), heads(8));
}

#[test]
fn published_parameter_counts() {
    let device = DeviceChoice::CPU.open().unwrap();
    let key = Key::from_seed(0);
    let tiny = Backbone::vit(VitConfig::tiny16_224(), Normalise::NONE, key, &device).unwrap();
    assert_eq!(tiny.num_trainable(), 5_524_416);
    for (filters, expected) in [(20, 1_093_140), (32, 2_795_040), (64, 11_168_832)] {
        let backbone = Backbone::resnet18(filters, 32, Normalise::HALF, key, &device).unwrap();
        assert_eq!(backbone.num_trainable(), expected, "nf = {filters}");
        assert_eq!(backbone.dim(), 8 * filters);
    }
}

#[test]
fn cached_features_are_those_of_the_network_and_do_not_depend_on_the_batch() {
    let device = DeviceChoice::CPU.open().unwrap();
    let shape = ImageShape::new(32, 32, 3);
    let pixels = (0..7 * shape.bytes())
        .map(|i| (i * i % 251) as u8)
        .collect();
    let images = Images::new(shape, pixels).unwrap();
    let cold = Frozen::new(Backbone::embedded(&device).unwrap(), &device);
    let warm = Frozen::new(Backbone::embedded(&device).unwrap(), &device);
    warm.warm(&images, |_, _| true).unwrap();
    assert_eq!(warm.store().stats().bytes_in_memory, 7 * 128 * 4);
    let some = images.select(&[5, 2, 5]).unwrap();
    let [computed, cached] = [&cold, &warm].map(|f| to_vec(&f.features(&some).unwrap()).unwrap());
    let largest = computed.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    for (a, b) in computed.iter().zip(&cached) {
        assert!((a - b).abs() <= 1e-5 * largest, "{a} {b}");
    }
    // Whoever shares the batch, a cached feature has the same bits.
    let alone = to_vec(&warm.features(&images.select(&[5]).unwrap()).unwrap()).unwrap();
    assert_eq!(alone, cached[..128]);
    let wrong = Images::new(ImageShape::new(8, 8, 3), vec![0; 192]).unwrap();
    let message = cold.features(&wrong).unwrap_err().to_string();
    assert!(
        message.contains("8×8×3") && message.contains("32×32×3"),
        "{message}"
    );
}

#[test]
fn the_state_of_a_backbone_has_timm_names() {
    let device = DeviceChoice::CPU.open().unwrap();
    let backbone = Backbone::embedded(&device).unwrap();
    let state = save_params(backbone.encoder()).unwrap();
    assert!(
        state
            .arrays
            .keys()
            .any(|name| name.ends_with("blocks.5.attn.qkv.weight"))
    );
}
