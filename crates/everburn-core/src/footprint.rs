use serde::{Deserialize, Serialize};

/// What a number of bytes is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// Parameters that training changes.
    Trained,
    /// Parameters that never change. Stored once, written to checkpoints by hash.
    Frozen,
    /// Running statistics, class means, covariances, importances.
    Statistics,
    /// Stored images with their labels.
    Exemplars,
    /// Moments and momenta of the optimiser.
    Optimiser,
    /// Counters, class lists and other small change.
    Bookkeeping,
}

impl Kind {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trained => "trained",
            Self::Frozen => "frozen",
            Self::Statistics => "statistics",
            Self::Exemplars => "exemplars",
            Self::Optimiser => "optimiser",
            Self::Bookkeeping => "bookkeeping",
        }
    }
}

/// One thing that a learner holds in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// What it is for.
    pub kind: Kind,
    /// What it is, in the method's words.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// For exemplars: how many, and how many at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

/// Stored images, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// How many images are stored now.
    pub images: u64,
    /// How many may be stored at most, M; where the budget is per class, for the classes seen so far.
    pub budget: u64,
}

/// What a learner holds, in bytes, and what a prediction costs.
///
/// Counted from the state itself: the bytes of everything but [`Kind::Frozen`] and
/// [`Kind::Bookkeeping`] are the bytes of the arrays that `save` writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// The things held.
    pub memory: Vec<Memory>,
    /// Multiply-accumulate operations to predict one image.
    pub macs_per_image: u64,
}

impl Footprint {
    /// Adds a thing that is held.
    pub fn add(&mut self, kind: Kind, name: impl Into<String>, bytes: u64) {
        self.memory.push(Memory {
            kind,
            name: name.into(),
            bytes,
            held: None,
        });
    }

    /// Adds stored images with their labels. A memory without a budget is none: every method that
    /// stores images says here how many it may store.
    pub fn add_exemplars(&mut self, name: impl Into<String>, bytes: u64, held: Held) {
        self.memory.push(Memory {
            kind: Kind::Exemplars,
            name: name.into(),
            bytes,
            held: Some(held),
        });
    }

    /// Bytes of one kind.
    pub fn bytes(&self, kind: Kind) -> u64 {
        let of_kind = self.memory.iter().filter(|m| m.kind == kind);
        of_kind.map(|m| m.bytes).sum()
    }

    /// Bytes of all kinds.
    pub fn total(&self) -> u64 {
        self.memory.iter().map(|m| m.bytes).sum()
    }
}
