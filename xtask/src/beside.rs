//! How many runs are made beside each other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use everburn::backend::DeviceKind;
use everburn::core::Error;
use everburn::run::peak_memory;

use crate::drive::Watch;
use crate::estimate::Costs;
use crate::job::{Job, Shared};
use crate::worker::Order;

/// Memory that is left to the system and to whatever else runs.
const RESERVE: u64 = 256 << 20;

/// What `--jobs` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jobs {
    /// As many as cores and memory allow.
    Auto,
    /// So many.
    Count(usize),
}

impl FromStr for Jobs {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.parse() {
            _ if text == "auto" => Ok(Self::Auto),
            Ok(count) if count > 0 => Ok(Self::Count(count)),
            _ => Err(Error::config(
                "jobs",
                text,
                "auto, or a whole number of at least 1",
            )),
        }
    }
}

impl Jobs {
    /// How many of the runs that are `left` to make beside each other; `order` asks for a trial.
    pub fn number(
        self,
        shared: &Shared,
        left: &[Job],
        order: &Order,
        watch: &dyn Watch,
    ) -> anyhow::Result<usize> {
        let most = match self {
            Self::Count(count) => return Ok(count.min(left.len()).max(1)),
            Self::Auto => cores().min(left.len()),
        };
        let processor = matches!(
            shared.suite.device.kind,
            DeviceKind::Cpu | DeviceKind::Ndarray
        );
        // A path that is no text cannot be told to another process.
        if most < 2 || !processor || serde_json::to_string(order).is_err() {
            return Ok(1);
        }
        let Some(available) = available_memory() else {
            return Ok(1);
        };
        let each = memory_of_one(shared, left, order, watch)?;
        let fit = available.saturating_sub(RESERVE) / each.max(1);
        Ok(most.min(usize::try_from(fit).unwrap_or(usize::MAX)).max(1))
    }
}

/// The most that one of the runs will take, in bytes.
fn memory_of_one(
    shared: &Shared,
    left: &[Job],
    order: &Order,
    watch: &dyn Watch,
) -> anyhow::Result<u64> {
    let mut tried = BTreeSet::new();
    let mut tuned = Vec::new();
    for job in left {
        if !shared.is_frozen(job)? && tried.insert(&job.method) {
            tuned.push(job.clone());
        }
    }
    // Data and backbone are as large there as they are here; a head on features is small beside them.
    let here = peak_memory().unwrap_or_default();
    if tuned.is_empty() {
        return Ok(here + here / 4);
    }
    let mut order = order.clone();
    order.terms.jobs = 1;
    let costs = Costs::of(shared, &tuned, &order, watch)?;
    let most = costs.peak_bytes(1, None);
    Ok(most.map_or(u64::MAX, |most| (most + most / 10).max(here)))
}

/// Threads that all runs together may use.
pub fn cores() -> usize {
    let asked = std::env::var("RAYON_NUM_THREADS").ok();
    let asked = asked.and_then(|text| text.parse().ok());
    asked
        .filter(|threads| *threads > 0)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Threads for each of so many runs beside each other.
pub fn threads(jobs: usize) -> usize {
    (cores() / jobs.max(1)).max(1)
}

/// Bytes that can still be had: what the system has available, and what the limits of this process's
/// control groups leave. `None` where the system does not say (all but Linux).
pub fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let limits = group.into_iter().flat_map(|group| {
        let group = Path::new("/sys/fs/cgroup").join(group);
        let up = group.ancestors().map(Path::to_owned).collect::<Vec<_>>();
        up.into_iter().filter_map(|group| left_in(&group))
    });
    Some(limits.fold(1024 * kibibytes, u64::min))
}

/// What a control group's limit leaves; pages of files that only speed up reading count as free.
fn left_in(group: &Path) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(group.join(name)).ok()?;
        text.trim().parse().ok()
    };
    let statistics = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let files = statistics
        .lines()
        .find_map(|line| line.strip_prefix("inactive_file "))
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let used = number("memory.current")?.saturating_sub(files);
    Some(number("memory.max")?.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_auto_or_a_number() {
        assert_eq!("auto".parse::<Jobs>().unwrap(), Jobs::Auto);
        assert_eq!("3".parse::<Jobs>().unwrap(), Jobs::Count(3));
        for wrong in ["", "0", "-1", "many", "1.5"] {
            let message = wrong.parse::<Jobs>().unwrap_err().to_string();
            assert!(message.contains("auto, or a whole number"), "{message}");
        }
    }

    #[test]
    fn threads_share_the_cores() {
        assert_eq!(threads(1), cores());
        assert_eq!(threads(10_000), 1);
    }
}
