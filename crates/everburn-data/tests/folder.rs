//! Class folders of images, written here, read, and broken in every way.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::Path;

use everburn_core::ClassId;
use everburn_data::{
    Dataset, FileState, LoadOptions, Preprocess, SplitRule, load, load_folder, verify,
};
use image::{DynamicImage, GrayImage, ImageFormat, Rgb, RgbImage, RgbaImage};

fn save(path: &Path, image: impl Into<DynamicImage>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image
        .into()
        .save_with_format(path, ImageFormat::Png)
        .unwrap();
}

/// A 2×3 image of one colour.
fn colour(path: &Path, value: u8) {
    save(path, RgbImage::from_pixel(3, 2, Rgb([value, 100, 200])));
}

/// Two classes, `a` of `per_class` images and `b` of as many.
fn classes(root: &Path, per_class: u8) {
    for (class, start) in [("b", 100), ("a", 0)] {
        for index in 0..per_class {
            colour(&root.join(format!("{class}/{index:02}.png")), start + index);
        }
    }
}

fn read(root: &Path) -> Dataset {
    load("folder", Some(root), &Preprocess::default()).unwrap()
}

fn refused(root: &Path) -> String {
    load("folder", Some(root), &Preprocess::default())
        .unwrap_err()
        .to_string()
}

fn reds(split: &everburn_data::Split) -> Vec<u8> {
    let images = split.images.to_images().unwrap();
    (0..images.len())
        .map(|index| images.image(index)[0])
        .collect()
}

#[test]
fn without_a_split_every_fifth_image_is_for_testing() {
    let dir = tempfile::tempdir().unwrap();
    classes(dir.path(), 11);
    fs::write(dir.path().join("a/.hidden.png"), "x").unwrap();
    fs::write(dir.path().join("a/notes.txt"), "x").unwrap();
    fs::create_dir(dir.path().join(".git")).unwrap();
    fs::write(dir.path().join("README"), "x").unwrap();
    let data = read(dir.path());
    assert_eq!(data.class_names, ["a", "b"]);
    assert_eq!(reds(&data.test), [4, 9, 104, 109]);
    assert_eq!(data.test.labels, [0, 0, 1, 1].map(ClassId));
    assert_eq!(reds(&data.train)[..5], [0, 1, 2, 3, 5]);
    assert_eq!(data.split_rule, SplitRule::EveryFifth);
    assert_eq!(data.skipped_files, 2);
    assert_eq!(data.shape().to_string(), "2×3×3");
}

#[test]
fn train_and_test_folders_decide() {
    let dir = tempfile::tempdir().unwrap();
    classes(&dir.path().join("train"), 3);
    classes(&dir.path().join("test"), 1);
    let data = read(dir.path());
    assert_eq!((data.train.len(), data.test.len()), (6, 2));
    assert_eq!(data.split_rule, SplitRule::Folders);
    let by_path = format!("folder:{}", dir.path().display());
    assert_eq!(load(&by_path, None, &Preprocess::default()).unwrap(), data);

    colour(&dir.path().join("test/c/0.png"), 1);
    let error = refused(dir.path());
    assert!(
        error.ends_with("training images of class `c`: found 0, expected at least one"),
        "{error}"
    );
    fs::remove_dir_all(dir.path().join("test/c")).unwrap();
    colour(&dir.path().join("train/0/0.png"), 1);
    assert!(refused(dir.path()).contains("test images of class `0`: found 0"));
}

#[test]
fn a_split_file_decides() {
    let dir = tempfile::tempdir().unwrap();
    classes(dir.path(), 2);
    let split = |text: &str| fs::write(dir.path().join("split.txt"), text).unwrap();
    split("# image part\na/00.png test\na/01.png\ttrain\n\n./b/00.png, train\r\nb/01.png,test\n");
    let data = read(dir.path());
    assert_eq!(
        (reds(&data.train), reds(&data.test)),
        (vec![1, 100], vec![0, 101])
    );
    assert_eq!(data.split_rule, SplitRule::File("split.txt".into()));

    let line = |text: &str, error: &str| {
        split(text);
        let found = refused(dir.path());
        assert!(found.contains(error), "{found}");
    };
    let all = "a/00.png test\na/01.png train\nb/00.png train\nb/01.png test\n";
    line(
        &format!("{all}a/02.png train"),
        "line 5: found `a/02.png`, which is none",
    );
    line(
        &format!("{all}a/00.png train"),
        "line 5: found `a/00.png` again, after line 1",
    );
    line(
        "a/00.png test\na/01.png train\nb/00.png train\n",
        "`b/01.png`: found no line",
    );
    line(
        "a/00.png val",
        "line 1: found `val`, expected `train` or `test`",
    );
    line("a/00.png", "line 1: found `a/00.png`, expected a path and");
    line(
        &all.replace("train", "test"),
        "training images of class `a`: found 0",
    );
    fs::write(dir.path().join("split.csv"), all).unwrap();
    assert!(refused(dir.path()).contains("expected one split file"));
}

#[test]
fn paths_with_spaces_and_commas_can_be_split() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a/x 1, y.png", "a/x 2, y.png"] {
        colour(&dir.path().join(name), 1);
    }
    fs::write(
        dir.path().join("split.csv"),
        "a/x 1, y.png,train\na/x 2, y.png,test\n",
    )
    .unwrap();
    assert_eq!(read(dir.path()).train.len(), 1);
}

#[test]
fn every_kind_of_image_becomes_rgb() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join("a").join(name);
    save(
        &file("0.png"),
        GrayImage::from_pixel(3, 2, image::Luma([7])),
    );
    save(
        &file("1.png"),
        RgbaImage::from_pixel(3, 2, image::Rgba([1, 2, 3, 0])),
    );
    save(
        &file("2.png"),
        image::ImageBuffer::<image::Luma<u16>, _>::from_pixel(3, 2, image::Luma([257 * 9])),
    );
    // A JPEG by content and a PNG by name, as there is one in ImageNet.
    let grey: DynamicImage = GrayImage::from_pixel(3, 2, image::Luma([50])).into();
    grey.save_with_format(file("3.png"), ImageFormat::Jpeg)
        .unwrap();
    colour(&file("4.PNG"), 4);
    let data = read(dir.path());
    let images = data.train.images.to_images().unwrap();
    let first = |index: usize| images.image(index)[..3].to_vec();
    assert_eq!(
        [first(0), first(1), first(2), first(3)],
        [[7; 3], [1, 2, 3], [9; 3], [50; 3]]
    );
    assert_eq!(
        data.test.images.to_images().unwrap().image(0)[..3],
        [4, 100, 200]
    );
}

#[test]
fn a_cmyk_jpeg_becomes_rgb() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["train/a/0.jpg", "test/a/0.jpg"] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, include_bytes!("cmyk.jpg")).unwrap();
    }
    let data = read(dir.path());
    // Written by Pillow from CMYK (0, 255, 255, 0), which is red.
    let images = data.train.images.to_images().unwrap();
    let [red, green, blue] = images.image(0)[..3].try_into().unwrap();
    assert!(red > 245 && green < 10 && blue < 10, "{red} {green} {blue}");
}

#[test]
fn sub_folders_come_after_files_and_a_circle_ends() {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in [
        ("z.png", 0),
        ("images/1.png", 1),
        ("images/2.png", 2),
        ("m.png", 9),
    ] {
        colour(&dir.path().join("a").join(name), value);
    }
    colour(&dir.path().join("a/images/3.png"), 3);
    let data = read(dir.path());
    assert_eq!(
        (reds(&data.train), reds(&data.test)),
        (vec![9, 0, 1, 2], vec![3])
    );
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(dir.path().join("a"), dir.path().join("a/images/a")).unwrap();
        assert!(refused(dir.path()).contains("no link in a circle"));
    }
}

#[test]
fn an_image_that_does_not_decode_is_named() {
    let dir = tempfile::tempdir().unwrap();
    classes(dir.path(), 5);
    fs::write(dir.path().join("a/02.png"), "this is text").unwrap();
    fs::write(dir.path().join("b/03.png"), []).unwrap();
    for _ in 0..5 {
        let error = refused(dir.path());
        assert!(error.contains("a/02.png: found"), "{error}");
        assert!(error.ends_with("expected a PNG or JPEG image"), "{error}");
    }
    let report = verify("folder", Some(dir.path())).unwrap();
    assert!(!report.is_usable());
    assert_eq!(report.files[0].state, FileState::Unchecked { records: 8 });
    assert!(report.files[1].path.ends_with("a/02.png"));
    assert!(matches!(report.files[2].state, FileState::Invalid { .. }));
    assert_eq!(
        (report.train_per_class, report.test_per_class),
        (vec![3, 3], vec![1, 1])
    );

    let whole = fs::read(dir.path().join("a/01.png")).unwrap();
    fs::write(dir.path().join("a/01.png"), &whole[..whole.len() / 2]).unwrap();
    assert!(refused(dir.path()).contains("a/01.png"));
}

#[test]
fn images_of_several_sizes_need_a_size() {
    let dir = tempfile::tempdir().unwrap();
    classes(dir.path(), 5);
    save(&dir.path().join("b/01.png"), RgbImage::new(2, 2));
    let error = refused(dir.path());
    assert!(
        error.contains("b/01.png: image size: found 2×2×3, expected 2×3×3"),
        "{error}"
    );
    let resize: Preprocess = "resize-32".parse().unwrap();
    let resized = load_folder(dir.path(), &resize).unwrap();
    assert_eq!(resized.shape().to_string(), "32×32×3");
    let grey = Preprocess {
        channels: everburn_data::Channels::Grey,
        ..resized.preprocess
    };
    assert_eq!(
        load_folder(dir.path(), &grey).unwrap().shape().to_string(),
        "32×32×1"
    );
}

#[test]
fn what_is_empty_or_too_small_is_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refused(&dir.path().join("none")).contains("no such folder"));
    assert!(refused(dir.path()).contains("expected a folder for each class"));
    fs::create_dir(dir.path().join("a")).unwrap();
    assert!(
        refused(dir.path()).ends_with("a: found no image, expected at least one PNG or JPEG image")
    );
    colour(&dir.path().join("a/0.png"), 1);
    let error = refused(dir.path());
    assert!(
        error.contains("test images of class `a`: found 0"),
        "{error}"
    );
    assert!(error.contains("a class needs 5 images"), "{error}");
    assert!(verify("folder", Some(&dir.path().join("none"))).is_err());
}

#[test]
fn what_has_no_room_in_memory_lies_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    classes(dir.path(), 23);
    // 224×224×3 bytes each: 38 training images, and 8 test images for which there is room.
    let preprocess: Preprocess = "resize-224".parse().unwrap();
    let options = LoadOptions {
        preprocess,
        memory_budget: Some(8 * 224 * 224 * 3),
        spool_dir: None,
    };
    let budget = load_folder(dir.path(), options.clone()).unwrap();
    assert!(budget.train.images.is_on_disk() && !budget.test.images.is_on_disk());
    let all = load_folder(dir.path(), &preprocess).unwrap();
    assert_eq!(budget, all);
    assert_eq!(budget.identity().unwrap(), all.identity().unwrap());
    fs::write(dir.path().join("b/22.png"), []).unwrap();
    let error = load_folder(dir.path(), options.clone())
        .unwrap_err()
        .to_string();
    assert!(error.contains("b/22.png: found"), "{error}");
    let nowhere = LoadOptions {
        spool_dir: Some(dir.path().join("none")),
        ..options
    };
    let error = load_folder(dir.path(), nowhere).unwrap_err().to_string();
    assert!(error.contains("temporary file of images in") && error.contains("none"));
}

#[test]
fn the_result_does_not_depend_on_the_threads() {
    let dir = tempfile::tempdir().unwrap();
    classes(dir.path(), 23);
    let preprocess: Preprocess = "pilot-test-224".parse().unwrap();
    let one = load_folder(dir.path(), &preprocess).unwrap();
    let again = load_folder(dir.path(), &preprocess).unwrap();
    assert_eq!(one.identity().unwrap(), again.identity().unwrap());
}
