use std::collections::BTreeMap;

use everburn_core::{Checker, ClassId, Error, Result};
use serde::{Deserialize, Serialize};

use crate::order::check_fixed;
use crate::scenario::count_classes;
use crate::{ClassOrder, MAX_CLASSES, Manifest, ManifestTask, Scenario};

/// How many classes each task of a [`SplitTasks`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// The same number in each task. If the tasks do not divide the classes, the first tasks take
    /// one more, as in FACIL; if they do, the tasks are PyCIL's with `init_cls = increment = C/T`.
    Even {
        /// How many tasks, T.
        tasks: usize,
    },
    /// A first task, then increments until no class is left; the last task may be smaller. This is
    /// PyCIL's and PILOT's `init_cls` and `increment`.
    BaseIncrement {
        /// Classes of the first task; 0 for as many as in the others (the B0 of "B0-Inc10").
        base: usize,
        /// Classes of each other task.
        increment: usize,
    },
}

impl Split {
    /// Checks the settings.
    ///
    /// # Errors
    /// If there is no task, or the increment is 0.
    pub fn check(&self) -> Result<()> {
        let check = Checker::new("split");
        match *self {
            Self::Even { tasks } => check.positive("tasks", tasks),
            Self::BaseIncrement { increment, .. } => check.positive("increment", increment),
        }
    }

    /// How many classes each task takes.
    ///
    /// # Errors
    /// If a setting is wrong, there are fewer classes than tasks, fewer than the first task takes,
    /// or more than [`MAX_CLASSES`].
    pub fn sizes(&self, num_classes: usize) -> Result<Vec<usize>> {
        self.check()?;
        let (needed, what) = match *self {
            Self::Even { tasks } => (tasks, "one in each task"),
            Self::BaseIncrement { base: 0, increment } => (increment, "the first task"),
            Self::BaseIncrement { base, .. } => (base, "the first task"),
        };
        if !(needed..=MAX_CLASSES).contains(&num_classes) {
            let expected = format!("at least {needed} for {what}, and at most {MAX_CLASSES}");
            return Err(Error::input(
                "classes of the data set",
                num_classes,
                expected,
            ));
        }
        Ok(match *self {
            Self::Even { tasks } => {
                let (size, larger) = (num_classes / tasks, num_classes % tasks);
                let size = |task| size + usize::from(task < larger);
                (0..tasks).map(size).collect()
            }
            Self::BaseIncrement { increment, .. } => {
                let left = num_classes - needed;
                let whole = std::iter::repeat_n(increment, left / increment);
                let rest = Some(left % increment).filter(|rest| *rest > 0);
                [needed].into_iter().chain(whole).chain(rest).collect()
            }
        })
    }
}

/// Class-incremental split: every task brings new classes and all of their samples.
///
/// Learners are told of the borders and may see a task for several epochs. Within a task the
/// samples are in data set order: trainers shuffle them anew in each epoch.
///
/// ```
/// use everburn_core::ClassId;
/// use everburn_stream::{Scenario, SplitTasks};
/// let labels = [0, 1, 2, 3, 0, 1, 2, 3].map(ClassId);
/// let manifest = SplitTasks::even(2)?.compile(&labels, 4, 1993)?;
/// assert_eq!(manifest.scenario, "split-2");
/// assert_eq!(manifest.tasks.len(), 2);
/// # Ok::<(), everburn_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitTasks {
    split: Split,
    order: ClassOrder,
    min_per_class: usize,
}

impl SplitTasks {
    /// The classes divided over `tasks` tasks; see [`Split::Even`] for the remainder.
    ///
    /// # Errors
    /// If there is no task.
    pub fn even(tasks: usize) -> Result<Self> {
        Self::new(Split::Even { tasks })
    }

    /// A first task of `base` classes and further ones of `increment`: `base_increment(50, 10)` is
    /// B50-Inc10, and `base_increment(0, 10)`, which is the same as `base_increment(10, 10)`, is
    /// B0-Inc10.
    ///
    /// # Errors
    /// If the increment is 0.
    pub fn base_increment(base: usize, increment: usize) -> Result<Self> {
        // One name and one hash for one stream.
        let base = if base == increment { 0 } else { base };
        Self::new(Split::BaseIncrement { base, increment })
    }

    fn new(split: Split) -> Result<Self> {
        split.check()?;
        Ok(Self {
            split,
            order: ClassOrder::default(),
            min_per_class: 1,
        })
    }

    /// The same with another order of the classes. The default is numpy's permutation of the seed,
    /// the order of PyCIL and PILOT.
    ///
    /// # Errors
    /// If a fixed order names a class twice or leaves one out.
    pub fn with_order(mut self, order: ClassOrder) -> Result<Self> {
        if let ClassOrder::Fixed(classes) = &order {
            check_fixed(classes)?;
        }
        self.order = order;
        Ok(self)
    }

    /// The same with another number of samples that each class must have at least. The default is
    /// 1; with 0, classes without samples are left out of their tasks, which may then be empty.
    #[must_use]
    pub fn with_min_per_class(mut self, samples: usize) -> Self {
        self.min_per_class = samples;
        self
    }

    /// How many classes each task takes.
    pub fn split(&self) -> Split {
        self.split
    }

    /// The order of the classes.
    pub fn order(&self) -> &ClassOrder {
        &self.order
    }

    fn check_counts(&self, counts: &[usize]) -> Result<()> {
        let needed = self.min_per_class;
        let small = |(_, count): &(u32, &usize)| **count < needed;
        let Some((class, count)) = (0..).zip(counts).find(small) else {
            return Ok(());
        };
        let others = counts.iter().filter(|count| **count < needed).count() - 1;
        let found = match others {
            0 => count.to_string(),
            _ => format!("{count} (and {others} other classes are too small)"),
        };
        let what = format!("samples of {} for {}", ClassId(class), self.name());
        Err(Error::input(what, found, format!("at least {needed}")))
    }
}

impl Scenario for SplitTasks {
    fn name(&self) -> String {
        let mut name = match self.split {
            Split::Even { tasks } => format!("split-{tasks}"),
            Split::BaseIncrement { base, increment } => format!("split-b{base}-inc{increment}"),
        };
        let mut mark = ':';
        if self.order != ClassOrder::default() {
            name += &format!("{mark}order={}", self.order.name());
            mark = ',';
        }
        if self.min_per_class != 1 {
            name += &format!("{mark}min={}", self.min_per_class);
        }
        name
    }

    fn settings(&self) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::from([
            ("order".to_owned(), self.order.name().to_owned()),
            ("min_per_class".to_owned(), self.min_per_class.to_string()),
        ]);
        let mut set = |key: &str, value: usize| settings.insert(key.to_owned(), value.to_string());
        match self.split {
            Split::Even { tasks } => set("tasks", tasks),
            Split::BaseIncrement { base, increment } => {
                set("base", base);
                set("increment", increment)
            }
        };
        settings
    }

    fn compile(&self, labels: &[ClassId], num_classes: usize, seed: u64) -> Result<Manifest> {
        let counts = count_classes(labels, num_classes)?;
        let sizes = self.split.sizes(num_classes)?;
        self.check_counts(&counts)?;
        let class_order = self.order.classes(num_classes, seed)?;
        let mut tasks = Vec::with_capacity(sizes.len());
        let mut task_of_class = vec![0; num_classes];
        let mut classes = class_order.iter().copied();
        let count = |class: ClassId| counts.get(class.0 as usize).copied().unwrap_or(0);
        for (number, size) in sizes.into_iter().enumerate() {
            let mut task = ManifestTask::default();
            let mut samples = 0;
            for class in classes.by_ref().take(size) {
                if let Some(owner) = task_of_class.get_mut(class.0 as usize) {
                    *owner = number;
                }
                if count(class) > 0 {
                    samples += count(class);
                    task.classes.push(class);
                }
            }
            task.indices.reserve_exact(samples);
            tasks.push(task);
        }
        for (index, class) in (0..).zip(labels) {
            let owner = task_of_class.get(class.0 as usize);
            if let Some(task) = owner.and_then(|owner| tasks.get_mut(*owner)) {
                task.indices.push(index);
            }
        }
        Ok(Manifest {
            scenario: self.name(),
            settings: self.settings(),
            seed,
            num_samples: labels.len(),
            num_classes,
            class_order,
            online: false,
            borders: true,
            tasks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(scenario: Result<SplitTasks>, num_classes: usize) -> Vec<usize> {
        scenario.unwrap().split().sizes(num_classes).unwrap()
    }

    fn interleaved(classes: u32, samples: u32) -> Vec<ClassId> {
        (0..samples).map(|i| ClassId(i % classes)).collect()
    }

    #[test]
    fn sizes_are_pycils() {
        assert_eq!(sizes(SplitTasks::base_increment(10, 10), 100), [10; 10]);
        assert_eq!(sizes(SplitTasks::base_increment(0, 10), 100), [10; 10]);
        assert_eq!(
            sizes(SplitTasks::base_increment(50, 10), 100),
            [50, 10, 10, 10, 10, 10]
        );
        let b20 = sizes(SplitTasks::base_increment(20, 30), 200);
        assert_eq!(b20, [20, 30, 30, 30, 30, 30, 30]);
        assert_eq!(sizes(SplitTasks::base_increment(3, 3), 10), [3, 3, 3, 1]);
        assert_eq!(sizes(SplitTasks::base_increment(10, 3), 10), [10]);
        assert_eq!(sizes(SplitTasks::even(5), 10), [2; 5]);
        assert_eq!(sizes(SplitTasks::even(4), 10), [3, 3, 2, 2]);
        assert_eq!(sizes(SplitTasks::even(1), 10), [10]);
    }

    #[test]
    fn pycils_first_task_of_cifar_100() {
        let labels = interleaved(100, 1000);
        let scenario = SplitTasks::base_increment(0, 10).unwrap();
        let manifest = scenario.compile(&labels, 100, 1993).unwrap();
        let first = [68, 56, 78, 8, 23, 84, 90, 65, 74, 76].map(ClassId);
        assert_eq!(manifest.tasks[0].classes, first);
        assert!(manifest.borders && !manifest.online);
        assert!(manifest.tasks.iter().all(|task| task.indices.is_sorted()));
        manifest.validate(&labels).unwrap();
    }

    #[test]
    fn mammoths_first_task_holds_the_classes_mapped_below_its_size() {
        let labels = interleaved(10, 10);
        let mammoth = SplitTasks::even(5)
            .unwrap()
            .with_order(ClassOrder::MammothMap)
            .unwrap();
        let manifest = mammoth.compile(&labels, 10, 1993).unwrap();
        // numpy's order is 4 2 7 6 0 3 5 8 9 1: classes 4 and 9 become 0 and 1.
        assert_eq!(manifest.tasks[0].classes, [4, 9].map(ClassId));
        assert_eq!(manifest.scenario, "split-5:order=mammoth");
    }

    #[test]
    fn what_does_not_suffice_is_named() {
        let text = |scenario: Result<SplitTasks>, labels: &[ClassId], classes| {
            let compiled = scenario.and_then(|s| s.compile(labels, classes, 0));
            compiled.unwrap_err().to_string()
        };
        let labels = interleaved(4, 10);
        let even = SplitTasks::even;
        assert!(text(even(0), &labels, 4).contains("split.tasks: found 0"));
        assert!(text(even(5), &labels, 4).contains("found 4, expected at least 5"));
        assert!(text(SplitTasks::base_increment(5, 1), &labels, 4).contains("the first task"));
        assert!(text(SplitTasks::base_increment(2, 0), &labels, 4).contains("split.increment"));
        let few = text(even(2), &labels, 6);
        assert!(
            few.contains("samples of class 4 for split-2: found 0"),
            "{few}"
        );
        let min = even(2).map(|s| s.with_min_per_class(3));
        assert!(text(min, &labels, 4).contains("class 2 for split-2:min=3: found 2"));
        assert!(text(even(2), &labels, 3).contains("label of sample 3: found 3"));
        assert!(text(even(2), &[], 3).contains("samples of the data set: found 0"));
        assert!(text(even(1), &labels, usize::MAX).contains("classes of the data set"));
    }

    #[test]
    fn classes_without_samples_are_left_out_on_demand() {
        let labels = [0, 0, 3].map(ClassId);
        let scenario = SplitTasks::even(4).unwrap().with_min_per_class(0);
        let manifest = scenario.compile(&labels, 4, 1).unwrap();
        assert_eq!(manifest.len(), 3);
        assert_eq!(
            manifest
                .tasks
                .iter()
                .filter(|t| t.classes.is_empty())
                .count(),
            2
        );
        manifest.validate(&labels).unwrap();
    }
}
