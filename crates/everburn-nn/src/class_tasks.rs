//! Which task a class belongs to.

use std::ops::RangeInclusive;

use everburn_core::{Error, Result, SeenClasses, State, TaskInfo};

/// The last task of each class seen. Tasks count from 0, those with samples; a class of a task without any counts to
/// the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassTasks {
    /// By the class's number among those seen.
    of: Vec<usize>,
    /// How many tasks have begun.
    begun: usize,
}

impl ClassTasks {
    /// At the beginning of a task whose classes are among those seen.
    pub fn begin(&mut self, task: &TaskInfo, seen: &SeenClasses) {
        self.begun += usize::from(task.samples > 0);
        let current = self.current();
        self.of.resize(seen.len(), current);
        for row in task.classes.iter().filter_map(|class| seen.index(*class)) {
            self.of[row] = current;
        }
    }

    /// How many tasks have begun.
    pub fn begun(&self) -> usize {
        self.begun
    }

    /// t, the number of the current task.
    pub fn current(&self) -> usize {
        self.begun.saturating_sub(1)
    }

    /// The task of each class, by its number among those seen.
    pub fn of(&self) -> &[usize] {
        &self.of
    }

    /// Puts them into a state.
    ///
    /// # Errors
    /// If a value cannot be written as text.
    pub fn save(&self, state: &mut State) -> Result<()> {
        state.put_value("task_of", &self.of)?;
        state.put_value("tasks", self.begun)
    }

    /// Those of a state, for so many classes.
    ///
    /// # Errors
    /// If they are for more or fewer, or a task has not begun.
    pub fn restored(state: &State, classes: RangeInclusive<usize>) -> Result<Self> {
        let (of, begun): (Vec<usize>, usize) = (state.value("task_of")?, state.value("tasks")?);
        if !classes.contains(&of.len()) || of.iter().any(|task| *task >= begun.max(1)) {
            let expected = format!("a task below {begun} for each of {classes:?} classes");
            return Err(Error::state("task_of", format!("{of:?}"), expected));
        }
        Ok(Self { of, begun })
    }
}
