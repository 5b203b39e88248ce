//! Runs made by hand. Not every test file uses all of them.
#![allow(dead_code, unreachable_pub)]

use everburn_core::{ClassId, Footprint, Kind, TaskId};
use everburn_eval::{
    Accompanying, AccountedMemory, Evaluation, History, Moment, Period, Provenance, RunDescription,
    RunRecord, StreamKind,
};

fn describe(method: &str, stream: &str, seed: u64) -> (RunDescription, Provenance) {
    let run = RunDescription {
        method: method.to_owned(),
        stream: stream.to_owned(),
        dataset: "cifar100".to_owned(),
        backbone: "vit-tiny".to_owned(),
        tuning: "adapter".to_owned(),
        preset: "cpu".to_owned(),
        device: "cpu".to_owned(),
        seed,
        ..RunDescription::default()
    };
    let provenance = Provenance {
        run_id: format!("{method}-{seed}"),
        config_hash: "c0".to_owned(),
        manifest_hash: "aa".to_owned(),
        dataset_hash: "dd".to_owned(),
        weights_hash: None,
        code: "0.1.0".to_owned(),
    };
    (run, provenance)
}

/// Forty test images of each exposed class, so many of them right.
fn evaluation(moment: Moment, correct: &[(u32, usize)]) -> Evaluation {
    let classes: Vec<_> = correct.iter().map(|(class, _)| ClassId(*class)).collect();
    let images = |class: ClassId| std::iter::repeat_n(class, 40);
    let labels: Vec<_> = classes.iter().flat_map(|class| images(*class)).collect();
    let predicted: Vec<_> = correct
        .iter()
        .flat_map(|(class, right)| {
            let wrong = std::iter::repeat_n(ClassId(u32::MAX), 40 - right);
            std::iter::repeat_n(ClassId(*class), *right).chain(wrong)
        })
        .collect();
    Evaluation::from_predictions(moment, &classes, &labels, &predicted).unwrap()
}

fn memory(mebibytes: u64) -> AccountedMemory {
    let mut last = Footprint::default();
    last.add(Kind::Frozen, "backbone", mebibytes << 20);
    let mut peak = last.clone();
    peak.add(Kind::Optimiser, "momentum", 1 << 19);
    AccountedMemory { peak, last }
}

fn timing(seconds: f64) -> Accompanying {
    Accompanying {
        wall_seconds: Some(seconds),
        peak_rss_bytes: Some(300 << 20),
        images_per_second: Some(60.0),
        machine: Some("two cores".to_owned()),
        ..Accompanying::default()
    }
}

/// Two tasks of one class: all of the first right, then `kept` of its forty, and `kept` of the
/// second.
pub fn split(method: &str, seed: u64, kept: usize) -> (RunRecord, Accompanying) {
    let (run, provenance) = describe(method, "split-2", seed);
    let end = |task, samples_seen| Moment {
        samples_seen,
        task_end: Some(TaskId(task)),
        periodic: false,
    };
    let history = History {
        task_classes: vec![vec![ClassId(0)], vec![ClassId(1)]],
        disjoint: true,
        period: None,
        prequential: None,
        evaluations: vec![
            evaluation(end(0, 500), &[(0, 40)]),
            evaluation(end(1, 1000), &[(0, kept), (1, kept)]),
        ],
    };
    let record = RunRecord::new(run, provenance, history, Some(memory(87))).unwrap();
    (record, timing(100.0 + kept as f64))
}

/// Two tasks that share class 1, two periodic evaluations; a reference has only the last.
pub fn online(method: &str, seed: u64, right: usize, offline: bool) -> (RunRecord, Accompanying) {
    let (mut run, provenance) = describe(method, "si-blurry", seed);
    run.offline = offline;
    run.kind = Some(StreamKind::Online);
    let at = |samples_seen, task_end: Option<u32>| Moment {
        samples_seen,
        task_end: task_end.map(TaskId),
        periodic: task_end.is_none(),
    };
    let mut evaluations = vec![
        evaluation(at(1024, None), &[(0, right), (1, 2 * right)]),
        evaluation(at(1500, Some(0)), &[(0, right), (1, 3 * right)]),
        evaluation(at(2048, None), &[(0, right), (1, right), (2, right)]),
        evaluation(at(3000, Some(1)), &[(0, right), (1, right), (2, 4 * right)]),
    ];
    if offline {
        evaluations.drain(..3);
    }
    let history = History {
        task_classes: vec![vec![ClassId(0), ClassId(1)], vec![ClassId(1), ClassId(2)]],
        disjoint: false,
        period: Some(Period::Samples(1000)),
        evaluations,
        prequential: None,
    };
    let record = RunRecord::new(run, provenance, history, Some(memory(5))).unwrap();
    (record, timing(0.5 * right as f64))
}
