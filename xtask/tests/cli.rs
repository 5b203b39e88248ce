//! What users get wrong is answered in one line that says what, where, found and expected, with exit
//! code 2 for usage and 1 for the rest, and nothing half-written.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

/// Features of the tests, apart from the user's.
const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/features");

fn xtask(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .env("EVERBURN_CACHE_DIR", CACHE)
        .args(arguments)
        .output()
        .unwrap()
}

/// Runs a command that must fail, and returns its one line.
#[track_caller]
fn refused(arguments: &[&str], code: i32) -> String {
    let output = xtask(arguments);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    assert!(message.starts_with("error: "), "{message}");
    message
}

#[track_caller]
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

/// A bench into a folder of its own, which must stay without results.
#[track_caller]
fn bench_refused(arguments: &[&str], code: i32) -> String {
    let runs = tempfile::tempdir().unwrap();
    let folder = runs.path().to_str().unwrap();
    let all = [&["bench", "--runs-dir", folder][..], arguments].concat();
    let message = refused(&all, code);
    let mut left = Vec::new();
    collect(runs.path(), &mut left);
    assert!(left.iter().all(|name| name == ".lock"), "{left:?}");
    message
}

fn collect(folder: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
}

#[test]
fn wrong_names_get_the_nearest_right_one() {
    says(
        &bench_refused(&["--methods", "simplecli"], 2),
        &["`simplecli`", "did you mean `simplecil`"],
    );
    says(
        &bench_refused(&["--streams", "si-blury"], 2),
        &["`si-blury`", "`si-blurry`"],
    );
    says(
        &bench_refused(&["--dataset", "cifar-100"], 2),
        &["data set", "`cifar100`"],
    );
    says(
        &bench_refused(&["--device", "gpu"], 2),
        &["device `gpu`", "cpu, wgpu"],
    );
    says(&bench_refused(&["--preset", "papr"], 2), &["`paper`"]);
    says(
        &bench_refused(&["--set", "er.bufer=3"], 2),
        &["`bufer`", "`buffer`"],
    );
    says(
        &bench_refused(&["--preprocess", "resize-23"], 2),
        &["resize-23"],
    );
}

#[test]
fn wrong_values_are_named() {
    says(
        &bench_refused(&["--seeds", "5..2"], 2),
        &["seeds", "5..2", "0..5"],
    );
    says(
        &bench_refused(&["--set", "er.buffer=0"], 2),
        &["er.buffer", "found 0", "at least 1"],
    );
    says(
        &bench_refused(&["--set", "finetune.training.head_rate=-1"], 2),
        &["head_rate", "-1"],
    );
    says(
        &bench_refused(&["--evaluations", "0"], 2),
        &["eval_points.count", "found 0"],
    );
    says(
        &bench_refused(&["--name", "../elsewhere"], 2),
        &["../elsewhere"],
    );
    let output = xtask(&["bench", "--no-such-flag"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_suite_file_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("suite.toml");
    let path_text = path.to_str().unwrap();
    says(
        &bench_refused(&["--suite", path_text], 1),
        &[path_text, "No such file"],
    );
    fs::write(&path, "dataset = \"digits\"\nmetods = [\"er\"]\n").unwrap();
    says(
        &bench_refused(&["--suite", path_text], 2),
        &[path_text, "line 2", "metods"],
    );
}

#[test]
fn a_class_too_small_for_the_split() {
    let message = bench_refused(&["--streams", "split-5:min=1000"], 1);
    says(&message, &["split-5", "1000"]);
    says(
        &bench_refused(&["--streams", "split-11"], 1),
        &["split-11", "found 10", "at least 11"],
    );
}

#[test]
fn data_that_is_missing_or_broken() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let cifar = ["--dataset", "cifar100", "--data-dir", dir];
    says(&bench_refused(&cifar, 1), &["cifar-100-binary"]);
    says(&bench_refused(&["--dataset", "cifar100"], 1), &["cifar100"]);

    let inside = folder.path().join("cifar-100-binary");
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("train.bin"), vec![0; 3074 + 100]).unwrap();
    fs::write(inside.join("test.bin"), vec![0; 3074]).unwrap();
    says(&bench_refused(&cifar, 1), &["train.bin", "3174", "3074"]);

    let mut record = vec![0; 3074];
    record[1] = 100;
    fs::write(inside.join("train.bin"), record).unwrap();
    says(&bench_refused(&cifar, 1), &["train.bin", "100"]);

    let images = folder.path().join("images");
    for class in ["cat", "dog"] {
        fs::create_dir_all(images.join(class)).unwrap();
        for number in 0..5 {
            fs::write(
                images.join(class).join(format!("{number}.png")),
                b"not a picture",
            )
            .unwrap();
        }
    }
    let name = format!("folder:{}", images.display());
    says(
        &bench_refused(&["--dataset", &name, "--streams", "split-2"], 1),
        &[".png"],
    );
}

#[test]
fn weights_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vit.safetensors");
    let text = path.to_str().unwrap();
    says(
        &bench_refused(&["--backbone", text], 1),
        &["vit.safetensors", "No such file"],
    );
    fs::write(&path, b"too short").unwrap();
    says(
        &bench_refused(&["--backbone", text], 1),
        &["vit.safetensors", "a complete safetensors file"],
    );
    let nothing = safetensors_without_tensors();
    fs::write(&path, nothing).unwrap();
    says(
        &bench_refused(&["--backbone", text], 1),
        &["patch_embed.proj.weight", "found nothing"],
    );
}

fn safetensors_without_tensors() -> Vec<u8> {
    let header = b"{\"__metadata__\":{\"num_heads\":\"4\"}}";
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes
}

#[test]
fn images_of_another_size_than_the_backbone_takes() {
    let message = bench_refused(&["--preprocess", "rgb", "--methods", "simplecil"], 1);
    says(&message, &["vit_micro_patch4_32", "8×8×3", "32×32×3"]);
}

#[test]
fn no_graphics_adapter() {
    // Hides every Vulkan and OpenGL driver from the program.
    let hidden = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .env("EVERBURN_CACHE_DIR", CACHE)
            .args(arguments)
            .env_remove("DISPLAY");
        for name in [
            "VK_ICD_FILENAMES",
            "VK_DRIVER_FILES",
            "__EGL_VENDOR_LIBRARY_FILENAMES",
        ] {
            command.env(name, "/nowhere");
        }
        command.output().unwrap()
    };
    let devices = String::from_utf8(hidden(&["devices"]).stdout).unwrap();
    if devices.contains("wgpu:0") {
        println!("an adapter that cannot be hidden: {devices}");
        return;
    }
    says(&devices, &["wgpu       no such device"]);
    let runs = tempfile::tempdir().unwrap();
    let folder = runs.path().to_str().unwrap();
    let output = hidden(&[
        "bench",
        "--device",
        "wgpu",
        "--seeds",
        "0",
        "--runs-dir",
        folder,
    ]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    says(&message, &["device `wgpu`", "--device cpu"]);
}

#[test]
fn a_device_that_was_not_built_in_names_its_feature() {
    if !cfg!(feature = "cuda") {
        says(
            &bench_refused(&["--device", "cuda"], 1),
            &["`cuda`", "--features cuda"],
        );
    }
}

#[test]
fn two_benches_on_one_folder() {
    let runs = tempfile::tempdir().unwrap();
    let folder = runs.path().join("digits");
    fs::create_dir(&folder).unwrap();
    let held = File::create(folder.join(".lock")).unwrap();
    held.lock().unwrap();
    let message = refused(&["bench", "--runs-dir", runs.path().to_str().unwrap()], 1);
    says(&message, &["another bench", "digits"]);
}

#[test]
fn a_damaged_checkpoint_begins_the_run_again_and_a_damaged_result_is_refused() {
    let runs = tempfile::tempdir().unwrap();
    let folder = runs.path().to_str().unwrap();
    let small = [
        "bench",
        "--runs-dir",
        folder,
        "--methods",
        "simplecil",
        "--streams",
        "split-2",
        "--seeds",
        "1",
        "--train-per-class",
        "5",
        "--test-per-class",
        "2",
    ];
    assert!(xtask(&small).status.success());
    let run = fs::read_dir(runs.path().join("digits")).unwrap();
    let run = run.map(|e| e.unwrap().path()).find(|p| p.is_dir()).unwrap();
    let before = fs::read(run.join("result.json")).unwrap();
    let ledger = runs.path().join("digits/ledger.jsonl");

    // What the ledger has is done, whatever is in the folder.
    fs::remove_file(&ledger).unwrap();
    fs::remove_file(run.join("result.json")).unwrap();
    fs::write(run.join("checkpoint"), b"EVERBRN1 and then rubbish").unwrap();
    let output = xtask(&small);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{message}");
    says(&message, &["checkpoint", "begins again"]);
    assert_eq!(fs::read(run.join("result.json")).unwrap(), before);
    assert!(!run.join("checkpoint").exists());

    fs::remove_file(&ledger).unwrap();
    fs::write(run.join("result.json"), &before[..before.len() / 2]).unwrap();
    says(&refused(&small, 1), &["result.json"]);
}

#[test]
fn the_plan_is_printed_without_running() {
    let runs = tempfile::tempdir().unwrap();
    let folder = runs.path().to_str().unwrap();
    let output = xtask(&[
        "bench",
        "--dry-run",
        "--runs-dir",
        folder,
        "--seeds",
        "0",
        "--train-per-class",
        "20",
        "--methods",
        "finetune,simplecil",
    ]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    says(
        &text,
        &[
            "4 runs",
            "200 training",
            "finetune",
            "si-blurry",
            "in all",
            "peak memory",
        ],
    );
    assert!(
        fs::read_dir(runs.path()).unwrap().next().is_none(),
        "it wrote something"
    );
}

#[test]
fn streams_are_drawn_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    assert!(
        xtask(&["stream", "show", "si-blurry", "--seed", "1"])
            .status
            .success()
    );
    assert!(
        xtask(&["stream", "show", "split-5", "--svg", &file("a.svg")])
            .status
            .success()
    );
    assert!(
        fs::read_to_string(file("a.svg"))
            .unwrap()
            .starts_with("<svg")
    );
    assert!(
        xtask(&["stream", "export", "split-5", "-o", &file("m.jsonl")])
            .status
            .success()
    );
    let manifest = everburn::stream::Manifest::load(file("m.jsonl")).unwrap();
    assert_eq!(manifest.tasks.len(), 5);
}

#[test]
fn data_sets_are_listed_and_verified() {
    let text = |arguments: &[&str]| String::from_utf8(xtask(arguments).stdout).unwrap();
    says(
        &text(&["data", "list"]),
        &["digits", "cifar100", "fashion-mnist"],
    );
    says(
        &text(&["data", "info", "digits"]),
        &["CC BY 4.0", "1442 training and 355 test"],
    );
    assert!(xtask(&["data", "verify", "digits"]).status.success());
    says(&text(&["devices"]), &["cpu", "burn-flex"]);
    says(&text(&["method", "list"]), &["simplecil", "joint"]);
}

#[test]
fn settings_are_explained_and_wrong_ones_refused() {
    let text = |arguments: &[&str]| String::from_utf8(xtask(arguments).stdout).unwrap();
    let er = text(&["method", "show", "er", "--preset", "cpu"]);
    says(&er, &["\nbuffer = 500\n    M, images in the memory."]);
    let file = text(&["method", "show", "er", "--toml"]);
    says(&file, &["# er: ", "\n[set.er]\nbuffer = 2000\n"]);
    // A method that knows one tuning takes it without being asked, and no other.
    says(&text(&["method", "show", "nmc"]), &["tuning frozen"]);
    says(
        &refused(&["method", "show", "nmc", "--tuning", "full"], 2),
        &["--tuning: found full", "frozen", "`nmc`"],
    );
    says(
        &refused(&["method", "show", "er", "--tuning", "fully"], 2),
        &["`full`"],
    );
    says(
        &bench_refused(&["--set", "er.buffer=0"], 2),
        &["er.buffer: found 0"],
    );
    says(
        &bench_refused(&["--set", "er.recipe.epochs=many"], 2),
        &["er.recipe.epochs: found \"many\"", "a whole number"],
    );
}
