//! Where a thread's time goes. Off by default, and then a span costs the look at one flag.
//!
//! At any moment one [`Part`] is charged; a [`Span`] charges its own until it is dropped and then again
//! what was charged before. So no time is counted twice, and the parts of a profile sum to its wall
//! time. Only the thread that [`start`]ed is watched: what it waits for is charged to the part that it
//! waits in.
//!
//! ```
//! use everburn_core::profile::{Part, span, start, stop};
//! start();
//! {
//!     let _forward = span(Part::Forward);
//!     // …
//! }
//! let profile = stop();
//! assert_eq!(profile.parts().map(|(_, time)| time).sum::<std::time::Duration>(), profile.wall());
//! ```

use std::cell::RefCell;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// What time is spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Choosing, reading and decoding images or their features, and bringing them to the device.
    Read,
    /// Augmenting images.
    Augment,
    /// Forward passes of learning.
    Forward,
    /// Backward passes.
    Backward,
    /// Steps of the optimiser.
    Optimiser,
    /// Predicting, and counting what is right; reading its images is [`Part::Read`].
    Evaluation,
    /// Saving the state of a run.
    Checkpoint,
    /// Waiting for a device or a lock.
    Idle,
    /// The rest: heads, memories of images, what a method counts, the loop.
    Other,
}

impl Part {
    /// All, in the order of tables.
    pub const ALL: [Self; 9] = [
        Self::Read,
        Self::Augment,
        Self::Forward,
        Self::Backward,
        Self::Optimiser,
        Self::Evaluation,
        Self::Checkpoint,
        Self::Idle,
        Self::Other,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Augment => "augment",
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Optimiser => "optimiser",
            Self::Evaluation => "evaluation",
            Self::Checkpoint => "checkpoint",
            Self::Idle => "idle",
            Self::Other => "other",
        }
    }
}

/// Time by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    times: [Duration; Part::ALL.len()],
}

impl Profile {
    /// The time of each part, in the order of [`Part::ALL`].
    pub fn parts(&self) -> impl Iterator<Item = (Part, Duration)> {
        Part::ALL.into_iter().zip(self.times)
    }

    /// The time of all.
    pub fn wall(&self) -> Duration {
        self.times.iter().sum()
    }
}

struct Clock {
    since: Instant,
    part: Part,
    profile: Profile,
}

thread_local! {
    static CLOCK: RefCell<Option<Clock>> = const { RefCell::new(None) };
}

/// Begins to watch this thread, from nothing. The time is that of [`Part::Other`] until a span says more.
pub fn start() {
    CLOCK.set(Some(Clock {
        since: Instant::now(),
        part: Part::Other,
        profile: Profile::default(),
    }));
}

/// Ends watching this thread. Empty if it was not watched.
pub fn stop() -> Profile {
    charge(Part::Other);
    let clock = CLOCK.take();
    clock.map(|clock| clock.profile).unwrap_or_default()
}

/// Whether this thread is watched.
pub fn is_on() -> bool {
    CLOCK.with_borrow(Option::is_some)
}

/// Charges a part until the span is dropped. Within [`Part::Evaluation`] only [`Part::Read`] is told
/// apart: a forward pass of a prediction is no learning.
pub fn span(part: Part) -> Span {
    let within_evaluation = CLOCK.with_borrow(|clock| {
        let clock = clock.as_ref();
        clock.is_some_and(|clock| clock.part == Part::Evaluation)
    });
    let before = match within_evaluation && part != Part::Read {
        true => None,
        false => charge(part),
    };
    Span {
        before,
        _stays: PhantomData,
    }
}

/// Charges a part from now on. Returns what was charged before; nothing where nobody watches.
fn charge(part: Part) -> Option<Part> {
    CLOCK.with_borrow_mut(|clock| {
        let clock = clock.as_mut()?;
        let now = Instant::now();
        clock.profile.times[clock.part as usize] += now - clock.since;
        clock.since = now;
        Some(std::mem::replace(&mut clock.part, part))
    })
}

/// A part that is charged until this is dropped.
#[derive(Debug)]
#[must_use = "the part is charged until it is dropped"]
pub struct Span {
    before: Option<Part>,
    /// It belongs to its thread.
    _stays: PhantomData<*const ()>,
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            charge(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait() {
        std::thread::sleep(Duration::from_millis(3));
    }

    #[test]
    fn parts_are_charged_once_and_sum_to_the_wall_time() {
        assert!(!is_on());
        let began = Instant::now();
        start();
        assert!(is_on());
        {
            let _forward = span(Part::Forward);
            wait();
            {
                let _read = span(Part::Read);
                wait();
            }
            wait();
        }
        {
            let _evaluation = span(Part::Evaluation);
            let _forward = span(Part::Forward);
            wait();
            let _read = span(Part::Read);
            wait();
        }
        let profile = stop();
        assert!(!is_on() && profile.wall() <= began.elapsed());
        let times: Vec<Duration> = profile.parts().map(|(_, time)| time).collect();
        for (part, waits) in [(Part::Forward, 2), (Part::Read, 2), (Part::Evaluation, 1)] {
            assert!(
                times[part as usize] >= Duration::from_millis(3 * waits),
                "{part:?}"
            );
        }
        assert_eq!(times[Part::Backward as usize], Duration::ZERO);
        assert_eq!(times.iter().sum::<Duration>(), profile.wall());
        let evaluation = times[Part::Evaluation as usize] + times[Part::Other as usize];
        assert!(profile.wall() - evaluation >= Duration::from_millis(12));
    }

    #[test]
    fn nothing_is_counted_where_nobody_watches() {
        drop(span(Part::Forward));
        assert_eq!(stop(), Profile::default());
        start();
        std::thread::spawn(|| assert!(!is_on())).join().unwrap();
        stop();
    }
}
