//! Processes that share a cache, and die. A child is this very program, running [`child`] alone.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

const TASK: &str = "EVERBURN_CACHE_CHILD";
const SELF: [&str; 4] = ["processes::child", "--exact", "--ignored", "--quiet"];

fn program(task: &str, root: &Path) -> Command {
    with_task(Command::new(std::env::current_exe().unwrap()), task, root)
}

fn with_task(mut command: Command, task: &str, root: &Path) -> Command {
    command
        .args(SELF)
        .env(TASK, format!("{task} {}", root.display()));
    command.stdout(Stdio::null());
    command
}

/// What a child does.
#[test]
#[ignore = "is run by other tests as a process of its own"]
fn child() {
    let Ok(task) = std::env::var(TASK) else {
        return;
    };
    let (task, root) = task.split_once(' ').unwrap();
    let root = Path::new(root);
    match task {
        // Stores all images in an order of its own, beside others that do the same.
        "fill-0" | "fill-1" | "fill-2" => {
            let store = open(root);
            let own = task.as_bytes()[5] - b'0';
            for number in 0..40 {
                let start = 10 * ((number * 7 + u64::from(own) * 13) % 40);
                put(&store, start..start + 10);
                if number % 3 == u64::from(own) {
                    store.flush();
                }
            }
        }
        // Stores until it is killed.
        "endless" => {
            let store = open(root);
            for start in (0..).step_by(3000) {
                put(&store, start..start + 3000);
                store.flush();
            }
        }
        "hold" => {
            let store = open(root);
            let _guard = store.computing(|| false).unwrap();
            put(&store, 0..5);
            store.flush();
            std::fs::write(root.join("held"), "").unwrap();
            thread::sleep(Duration::from_secs(60));
        }
        "hold-briefly" => {
            let store = open(root);
            let _guard = store.computing(|| false).unwrap();
            std::fs::write(root.join("held"), "").unwrap();
            thread::sleep(Duration::from_millis(300));
            put(&store, 0..5);
        }
        // With a limit on the size of files.
        "full" => {
            let store = open(root);
            put(&store, 0..10);
            store.flush();
            assert!(store.notes().is_empty());
            put(&store, 10..3000);
            store.flush();
            let notes = store.notes();
            assert!(
                notes.len() == 1 && notes[0].contains(EXTRACTOR),
                "{notes:?}"
            );
            has(&store, 0..3000);
            put(&store, 3000..3010);
            store.flush();
            assert!(store.notes().is_empty());
        }
        _ => panic!("{task}"),
    }
}

fn wait_for(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30));
        thread::sleep(Duration::from_millis(5));
    }
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn processes_fill_one_cache_at_the_same_time() {
    let root = tempfile::tempdir().unwrap();
    let fill = |task: &&str| program(task, root.path()).spawn().unwrap();
    let children: Vec<Child> = ["fill-0", "fill-1", "fill-2"].iter().map(fill).collect();
    let here = open(root.path());
    for number in 0..40 {
        here.refresh();
        let start = 10 * number;
        if here.load(&keys(start..start + 10)).is_empty() {
            has(&here, start..start + 10);
        }
    }
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    here.refresh();
    for store in [here, open(root.path())] {
        has(&store, 0..400);
        assert!(store.notes().is_empty());
    }
}

#[test]
fn a_process_killed_while_it_writes_leaves_nothing_half() {
    let root = tempfile::tempdir().unwrap();
    let mut stored = 0;
    for round in 0..12 {
        let child = program("endless", root.path()).spawn().unwrap();
        let before = files(&root.path().join(EXTRACTOR)).len();
        wait_for(|| files(&root.path().join(EXTRACTOR)).len() > before);
        thread::sleep(Duration::from_micros(700 * round));
        kill(child);
        let store = open(root.path());
        let rows = store.stats().rows_on_disk as u64;
        assert!(rows >= stored && rows.is_multiple_of(3000), "{rows}");
        has(&store, 0..rows);
        let notes = store.notes();
        assert!(notes.is_empty(), "{notes:?}");
        stored = rows;
    }
    assert!(stored > 0);
}

#[test]
fn a_second_process_waits_and_finds_what_the_first_computed() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let mut first = program("hold-briefly", root.path()).spawn().unwrap();
    wait_for(|| root.path().join("held").exists());
    let mut asked = 0;
    let guard = store.computing(|| {
        asked += 1;
        false
    });
    assert!(guard.is_some() && asked > 0);
    has(&store, 0..5);
    assert!(first.wait().unwrap().success());
}

#[test]
fn waiting_can_be_stopped_and_ends_when_the_first_is_killed() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let first = program("hold", root.path()).spawn().unwrap();
    wait_for(|| root.path().join("held").exists());
    let mut asked = 0;
    let guard = store.computing(|| {
        asked += 1;
        asked == 3
    });
    assert!(guard.is_none() && asked == 3);
    // Another extractor is not concerned.
    let other = open_with(root.path(), OTHER, 1 << 20, 1 << 20);
    assert!(other.computing(|| panic!("it waits")).is_some());
    let waiting = thread::spawn({
        let store = store.clone();
        move || store.computing(|| false).is_some()
    });
    thread::sleep(Duration::from_millis(100));
    assert!(!waiting.is_finished());
    kill(first);
    assert!(waiting.join().unwrap());
    has(&store, 0..5);
}

#[test]
fn a_lock_keeps_other_threads_waiting_until_it_is_dropped() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (open(root.path()), open(root.path()));
    let guard = first.computing(|| false).unwrap();
    assert!(second.computing(|| true).is_none());
    put(&first, 0..2);
    drop(guard);
    let _guard = second.computing(|| true).unwrap();
    has(&second, 0..2);
    // Whoever clears the cache leaves a lock that is held.
    everburn_cache::clear(root.path()).unwrap();
    assert!(first.computing(|| true).is_none());
}

/// A limit on the size of files stands for a disk that is full.
#[cfg(unix)]
#[test]
fn a_full_disk_is_a_note() {
    let root = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"";
    shell
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap());
    assert!(
        with_task(shell, "full", root.path())
            .status()
            .unwrap()
            .success()
    );
    // What fitted is there, and nothing else.
    assert_eq!(files(&root.path().join(EXTRACTOR)).len(), 2);
    let store = open(root.path());
    assert_eq!(store.stats().rows_on_disk, 20);
    has(&store, 0..10);
    has(&store, 3000..3010);
    assert!(store.notes().is_empty());
}
