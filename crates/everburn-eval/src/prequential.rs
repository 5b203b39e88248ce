use everburn_core::{Error, Result, TaskId};
use serde::{Deserialize, Serialize};

/// Answers on a stream's training samples, each asked for just before the sample was learned
/// (test-then-train; Gama, Sebastião and Rodrigues 2013).
///
/// Kept by task, because whoever drives the learner knows the borders even where the learner does
/// not.
///
/// ```
/// use everburn_core::TaskId;
/// use everburn_eval::{Prequential, metrics};
/// let mut prequential = Prequential::new(2);
/// prequential.record(TaskId(0), 1, 10)?; // a batch of ten, one of them right
/// prequential.record(TaskId(1), 8, 20)?;
/// assert_eq!(prequential.accuracy(), Some(0.3));
/// # Ok::<(), everburn_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prequential {
    /// The counts of each task of the stream; of the whole stream where it has no tasks.
    pub tasks: Vec<AnswerCount>,
}

/// Right answers among so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerCount {
    /// Right answers.
    pub correct: u64,
    /// All answers.
    pub total: u64,
}

impl AnswerCount {
    /// The share of right answers; `None` if nothing was asked.
    pub fn accuracy(&self) -> Option<f64> {
        (self.total > 0).then(|| self.correct as f64 / self.total as f64)
    }
}

impl Prequential {
    /// No answers yet, on a stream of so many tasks; 0 for a stream without tasks.
    pub fn new(tasks: usize) -> Self {
        Self {
            tasks: vec![AnswerCount::default(); tasks.max(1)],
        }
    }

    /// Adds the answers on one batch of a task; on a stream without tasks, all belong to task 0.
    ///
    /// # Errors
    /// If the stream has no such task or there are more right answers than answers.
    pub fn record(&mut self, task: TaskId, correct: u64, total: u64) -> Result<()> {
        let tasks = self.tasks.len();
        let Some(count) = self.tasks.get_mut(task.0 as usize) else {
            let expected = format!("a task below {tasks}, the tasks of the stream");
            return Err(Error::input("prequential task", task, expected));
        };
        AnswerCount { correct, total }.check(task.0)?;
        count.correct = count.correct.saturating_add(correct);
        count.total = count.total.saturating_add(total);
        Ok(())
    }

    /// The share of right answers over the whole stream; `None` if nothing was asked.
    pub fn accuracy(&self) -> Option<f64> {
        let mut all = AnswerCount::default();
        for task in &self.tasks {
            all.correct = all.correct.saturating_add(task.correct);
            all.total = all.total.saturating_add(task.total);
        }
        all.accuracy()
    }

    /// Checks the counts against each other and the number of tasks.
    pub(crate) fn check(&self, tasks: usize) -> Result<()> {
        if self.tasks.len() != tasks.max(1) {
            return Err(Error::input(
                "history.prequential.tasks",
                self.tasks.len(),
                format!("{}, one count for each task", tasks.max(1)),
            ));
        }
        (0..)
            .zip(&self.tasks)
            .try_for_each(|(task, c)| c.check(task))
    }
}

impl AnswerCount {
    fn check(&self, task: u32) -> Result<()> {
        if self.correct > self.total {
            return Err(Error::input(
                format!("prequential.tasks[{task}].correct"),
                self.correct,
                format!("at most the total of {}", self.total),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::History;

    #[test]
    fn batches_add_up_and_wrong_ones_are_named() {
        let mut prequential = Prequential::new(2);
        assert_eq!(prequential.accuracy(), None);
        for correct in [0, 3, 6] {
            prequential.record(TaskId(1), correct, 6).unwrap();
        }
        let both = AnswerCount {
            correct: 9,
            total: 18,
        };
        assert_eq!(prequential.tasks, [AnswerCount::default(), both]);
        let mut error = |task, correct| {
            let found = prequential.record(TaskId(task), correct, 6);
            found.unwrap_err().to_string()
        };
        assert!(error(2, 1).contains("prequential task: found task 2"));
        assert!(error(1, 7).contains("prequential.tasks[1].correct: found 7"));
        assert_eq!(prequential.accuracy(), Some(0.5));
    }

    #[test]
    fn a_history_checks_its_answers() {
        let mut history = History {
            prequential: Some(Prequential::new(0)),
            ..History::default()
        };
        assert!(history.check().is_ok());
        history.prequential = Some(Prequential::new(2));
        let error = history.check().unwrap_err().to_string();
        assert!(
            error.contains("history.prequential.tasks: found 2"),
            "{error}"
        );
    }
}
