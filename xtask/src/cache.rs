//! Features of frozen backbones: where they are kept, who computes them, `cache show` and `cache clear`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use everburn::cache::{FeatureStore, Limits, clear, summary};
use everburn::core::{Error, Result};
use everburn::eval::format;
use everburn::nn::Frozen;
use indicatif::HumanDuration;
use serde::{Deserialize, Serialize};

use crate::bench::print;
use crate::cli::{CacheCommand, CacheFolder, CacheOptions};
use crate::code::{FEATURE_CODE, RUSTC};
use crate::drive::{Interrupted, Watch};
use crate::job::Shared;

/// Where features are kept, and how many. Decides no result.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cache {
    /// Absent: in memory only, without a limit.
    root: Option<PathBuf>,
    /// Bytes on the disk.
    disk: u64,
    /// Bytes in memory.
    memory: u64,
}

/// Tokens are many times as large as features: without a cache, which has a limit of its own, this is one.
const MOST_TOKENS: u64 = 2 << 30;

impl CacheFolder {
    /// The folder that is asked for, or else the user's own.
    fn path(&self) -> Option<PathBuf> {
        let named = |name: &str| {
            let value = std::env::var_os(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        let own = || {
            // By its specification a relative one does not count.
            let cache = named("XDG_CACHE_HOME").filter(|path| path.is_absolute());
            let home = || named("HOME").map(|home| home.join(".cache"));
            let cache = cache.or_else(home).or_else(|| named("LOCALAPPDATA"));
            cache.map(|cache| cache.join("everburn").join("features"))
        };
        let asked = self.cache_dir.clone();
        asked.or_else(|| named("EVERBURN_CACHE_DIR")).or_else(own)
    }
}

impl Cache {
    /// What the options ask for.
    pub fn new(options: &CacheOptions) -> Result<Self> {
        let (gib, mib) = (options.cache_limit, options.cache_memory);
        if !(0.0..1e9).contains(&gib) {
            return Err(Error::config("cache-limit", gib, "GiB, 0 or more"));
        }
        Ok(Self {
            root: options.folder.path().filter(|_| !options.no_cache),
            disk: (gib * f64::from(1 << 30)) as u64,
            memory: mib.saturating_mul(1 << 20),
        })
    }

    /// One below a folder of its own for a suite whose runs are made beside each other.
    fn of_suite(&self, root: &Path) -> Self {
        Self {
            root: Some(root.to_owned()),
            disk: u64::MAX,
            // Where there is no cache there is no limit; what does not fit is read again.
            memory: self.memory,
        }
    }

    /// The same for each of so many processes.
    #[must_use]
    pub fn divided(mut self, among: usize) -> Self {
        self.memory /= among.max(1) as u64;
        self
    }

    /// Bytes of features that a process keeps in memory at most.
    pub fn most_in_memory(&self) -> u64 {
        match self.root {
            None => u64::MAX,
            Some(_) => self.memory,
        }
    }

    /// A backbone whose features are kept here.
    pub fn attach(&self, frozen: Frozen) -> Result<Frozen> {
        let Some(root) = &self.root else {
            return Ok(frozen);
        };
        let limits = Limits {
            memory: self.memory,
            disk: self.disk,
        };
        let extractor = frozen.extractor(&computed_by());
        let row = frozen.row();
        frozen.with_store(FeatureStore::open(root, &extractor, row, limits)?)
    }

    /// Bytes of tokens that a process keeps at most.
    fn most_of_tokens(&self) -> u64 {
        match self.root {
            None => MOST_TOKENS,
            Some(_) => self.memory,
        }
    }
}

/// What beside the backbone may change the last bits of a feature: the sources, the compiler, and the
/// processor, whose vector instructions decide in which order is added.
fn computed_by() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |name: &str| info.lines().find(|line| line.starts_with(name));
    let lines = [line("model name"), line("flags"), line("Features")];
    let processor = lines.map(Option::unwrap_or_default).join("\n");
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    format!("{} {RUSTC} {os} {arch} {processor}", *FEATURE_CODE)
}

/// How many images have a feature.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filled {
    /// Computed now.
    pub computed: usize,
    /// Known before.
    pub cached: usize,
}

/// Sees to it that all images have features, and returns a backbone that knows them. Others that
/// compute the same are waited for.
pub fn fill(
    shared: &Shared,
    frozen: &Frozen,
    watch: &dyn Watch,
) -> anyhow::Result<(Frozen, Filled)> {
    let filled = compute(shared, frozen, watch)?;
    let images = [&shared.dataset.train.images, &shared.dataset.test.images];
    let store = frozen.store();
    let lacks = |images: &&everburn::data::ImageSet| !store.missing(images.keys()).is_empty();
    let complete = !images.iter().any(lacks);
    for note in store.notes() {
        watch.note(&note);
    }
    if complete {
        return Ok((frozen.clone(), filled));
    }
    // Neither the disk nor the memory that was granted has room, and a feature that is computed in
    // whatever batch it comes differs in its last bits.
    watch.note("not all features have room in the cache; this process keeps them in memory");
    let memory = FeatureStore::in_memory(store.dim());
    let images = images.map(|images| images.keys());
    copy(store, &memory, images.into_iter().flatten().copied())?;
    let kept = frozen.clone().with_store(memory)?;
    let again = compute(shared, &kept, watch)?;
    let computed = filled.computed + again.computed;
    Ok((kept, Filled { computed, ..filled }))
}

/// Bytes of the tokens of all images, if that is more than there is room for.
pub fn too_many_tokens(shared: &Shared, cut: &Frozen) -> Option<u64> {
    let images = shared.dataset.train.images.len() + shared.dataset.test.images.len();
    let bytes = 4 * (images as u64) * (cut.row() as u64);
    (bytes > shared.cache.most_of_tokens()).then_some(bytes)
}

/// A cut backbone that knows the tokens of all images, if they have room in memory. Otherwise they are computed
/// each time, which gives the same bits.
pub fn tokens(shared: &Shared, cut: Frozen, watch: &dyn Watch) -> anyhow::Result<Frozen> {
    if let Some(bytes) = too_many_tokens(shared, &cut) {
        let needed = format::bytes(bytes as f64);
        watch.note(&format!(
            "tokens of all images would take {needed} of memory: they are computed each time (--cache-memory)"
        ));
        return Ok(cut);
    }
    let cut = shared.cache.attach(cut)?;
    let filled = compute(shared, &cut, watch)?;
    watch.filled(filled);
    for note in cut.store().notes() {
        watch.note(&note);
    }
    Ok(cut)
}

fn compute(shared: &Shared, frozen: &Frozen, watch: &dyn Watch) -> anyhow::Result<Filled> {
    let images = [&shared.dataset.train.images, &shared.dataset.test.images];
    let store = frozen.store();
    let total: usize = images.iter().map(|images| images.len()).sum();
    let known = |images: &everburn::data::ImageSet| store.load(images.keys()).is_empty();
    let mut filled = Filled::default();
    // Who lacks nothing need not wait for those who compute something else.
    if !images.iter().all(|images| known(images)) {
        let Some(_computing) = store.computing(|| watch.stop()) else {
            return Err(Interrupted.into());
        };
        let mut before = 0;
        for images in images {
            let mut first = None;
            frozen.warm(images, |done, _| {
                first.get_or_insert(done);
                watch.warming(before + done, total);
                !watch.stop()
            })?;
            let cached = first.unwrap_or_default();
            filled.cached += cached;
            filled.computed += images.len() - cached;
            before += images.len();
        }
    } else {
        filled.cached = total;
    }
    match watch.stop() {
        true => Err(Interrupted.into()),
        false => Ok(filled),
    }
}

/// Copies the rows that are there from one store to another.
fn copy(
    from: &FeatureStore,
    to: &FeatureStore,
    keys: impl Iterator<Item = everburn::core::ImageKey>,
) -> Result<()> {
    for key in keys {
        if let Some(row) = from.get(&[key]) {
            to.put(&[key], &row)?;
        }
    }
    Ok(())
}

/// Features that other processes can read, for as long as this lives.
pub struct Common {
    /// Where they are.
    pub cache: Cache,
    /// A folder that is deleted at the end.
    temporary: Option<PathBuf>,
}

impl Common {
    /// Those of a [`fill`]ed backbone: where they are, or, if not all of them are on the disk, in a folder
    /// below that of the suite.
    pub fn new(cache: &Cache, shared: &Shared, frozen: &Frozen, suite: &Path) -> Result<Self> {
        let plain = frozen
            .clone()
            .with_store(FeatureStore::in_memory(frozen.backbone().dim()))?;
        let keys = || {
            let images = [&shared.dataset.train.images, &shared.dataset.test.images];
            images
                .into_iter()
                .flat_map(|images| images.keys().iter().copied())
        };
        let found = cache.attach(plain.clone())?;
        if keys().all(|key| found.store().contains(&key)) {
            return Ok(Self {
                cache: cache.clone(),
                temporary: None,
            });
        }
        // What a bench that was killed has left is of no use: it may have been another suite's.
        let folder = suite.join(format!(".features-{}", std::process::id()));
        let common = Self {
            cache: cache.of_suite(&folder),
            temporary: Some(folder),
        };
        let there = common.cache.attach(plain)?;
        copy(frozen.store(), there.store(), keys())?;
        there.store().flush();
        Ok(common)
    }
}

impl Drop for Common {
    fn drop(&mut self) {
        if let Some(folder) = &self.temporary {
            fs::remove_dir_all(folder).unwrap_or_default();
        }
    }
}

/// `cache`.
pub fn cache(command: CacheCommand) -> anyhow::Result<()> {
    let (CacheCommand::Show(folder) | CacheCommand::Clear(folder)) = &command;
    let Some(root) = folder.path() else {
        let expected = "--cache-dir, EVERBURN_CACHE_DIR, XDG_CACHE_HOME or HOME";
        return Err(Error::config("cache-dir", "nothing", expected).into());
    };
    let place = root.display();
    match command {
        CacheCommand::Show(_) => {
            let found = summary(&root)?;
            let mut text = format!("{place}\n");
            if found.is_empty() {
                text += "no features\n";
            } else {
                text += "features of          rows        size  last used\n";
            }
            for one in &found {
                text += &format!(
                    "{}  {:>7}  {:>10}  {}\n",
                    one.extractor.get(..16).unwrap_or(&one.extractor),
                    one.rows,
                    format::bytes(one.bytes as f64),
                    one.last_used.map_or_else(|| "never".to_owned(), ago),
                );
            }
            let bytes: u64 = found.iter().map(|one| one.bytes).sum();
            print(&format!("{text}in all {}\n", format::bytes(bytes as f64)))
        }
        CacheCommand::Clear(_) => {
            let cleared = clear(&root)?;
            print(&format!(
                "{place}\n{} segments deleted, {}\n",
                cleared.segments,
                format::bytes(cleared.bytes as f64)
            ))
        }
    }
}

fn ago(then: SystemTime) -> String {
    let since = SystemTime::now().duration_since(then);
    format!("{} ago", HumanDuration(since.unwrap_or(Duration::ZERO)))
}
