use std::collections::BTreeMap;

use everburn_core::TaskId;

use super::Run;
use crate::{Measured, RunRecord, metric};

/// The method whose offline runs are the reference of intransigence.
const JOINT: &str = "joint";

const INTRANSIGENCE: &str = "learning/intransigence";

/// Gives every run on disjoint tasks its intransigence, where a joint run learned the same stream
/// and images with the same network: `a*_k` is the joint run's accuracy on task k after task k.
///
/// Where several joint runs would do (other settings), none is taken: nobody said which.
pub(super) fn add_intransigence(runs: &mut [Run]) {
    let mut references: BTreeMap<_, Vec<Vec<f64>>> = BTreeMap::new();
    for (record, _) in runs.iter().filter(|(record, _)| is_joint(record)) {
        if let Some(accuracies) = learned(record) {
            references
                .entry(setting(record))
                .or_default()
                .push(accuracies);
        }
    }
    for (record, _) in runs.iter_mut().filter(|(record, _)| !is_joint(record)) {
        let candidates = references.get(&setting(record));
        let Some([reference]) = candidates.map(Vec::as_slice) else {
            continue;
        };
        if let Some(value) = intransigence(record, reference) {
            record.metrics.insert(INTRANSIGENCE.to_owned(), value);
        }
    }
}

fn is_joint(record: &RunRecord) -> bool {
    record.run.offline && record.run.method == JOINT
}

/// What a run and its reference have in common.
fn setting(record: &RunRecord) -> impl Ord + use<> {
    let run = record.run.clone();
    let stream = (run.dataset, run.stream, run.seed);
    let network = (run.backbone, run.tuning, run.preset, run.device);
    let provenance = &record.provenance;
    let hashes = (
        provenance.manifest_hash.clone(),
        provenance.dataset_hash.clone(),
    );
    (stream, hashes, network)
}

/// The accuracy on each task right after it; `None` without a manifest hash, for then nobody knows
/// whether the streams are the same.
fn learned(record: &RunRecord) -> Option<Vec<f64>> {
    if record.provenance.manifest_hash.is_empty() {
        return None;
    }
    let matrix = record.history.matrix().ok()?;
    let tasks = 0..u32::try_from(matrix.tasks()).ok()?;
    let accuracy = |task| matrix.get(TaskId(task), TaskId(task));
    tasks.map(accuracy).collect()
}

fn intransigence(record: &RunRecord, reference: &[f64]) -> Option<f64> {
    let measured = Measured::of(&record.history).ok()?;
    let measured = Measured {
        reference,
        ..measured
    };
    metric(INTRANSIGENCE).ok()?.compute(&measured)
}
