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
/// Where several joint runs would do (other settings), none is taken: nobody said which. A variant
/// (`joint/…`) is taken where there is no plain one.
pub(super) fn add_intransigence(runs: &mut [Run]) {
    let mut references: BTreeMap<_, Candidates> = BTreeMap::new();
    for (record, _) in runs.iter().filter(|(record, _)| is_joint(record)) {
        let candidates = references.entry(setting(record)).or_default();
        let of_kind = match record.run.method == JOINT {
            true => &mut candidates.plain,
            false => &mut candidates.variants,
        };
        of_kind.push(learned(record));
    }
    for (record, _) in runs.iter_mut().filter(|(record, _)| !is_joint(record)) {
        let candidates = references.get(&setting(record));
        let Some(reference) = candidates.and_then(Candidates::only) else {
            continue;
        };
        if let Some(value) = intransigence(record, reference) {
            record.metrics.insert(INTRANSIGENCE.to_owned(), value);
        }
    }
}

/// What joint runs of one setting have learned; `None` for those that cannot say.
#[derive(Default)]
struct Candidates {
    plain: Vec<Option<Vec<f64>>>,
    variants: Vec<Option<Vec<f64>>>,
}

impl Candidates {
    /// The only one: of plain runs that can say, or else the one run of a variant that there is.
    fn only(&self) -> Option<&[f64]> {
        let able: Vec<&[f64]> = self.plain.iter().flatten().map(Vec::as_slice).collect();
        match (&self.plain[..], &self.variants[..]) {
            ([], [one]) => one.as_deref(),
            _ => able.first().filter(|_| able.len() == 1).copied(),
        }
    }
}

fn is_joint(record: &RunRecord) -> bool {
    let method = record.run.method.split('/').next();
    record.run.offline && method == Some(JOINT)
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
