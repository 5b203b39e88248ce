use everburn_core::{ClassId, TaskId};

use crate::metrics::MemoryPoint;
use crate::{AnswerCount, ClassCount, Evaluation, History, Measured, Metric, Period, Prequential};

/// A small run whose metrics can be worked out by hand. Tests and documentation use the same.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// Its short name.
    pub name: &'static str,
    /// What it is, for the documentation.
    pub meaning: &'static str,
    /// All evaluations.
    pub history: fn() -> History,
    /// `a*_k` for each task, of a joint reference; empty where there is none.
    pub reference: &'static [f64],
    /// Runs with different memory; empty where there are none.
    pub sweep: &'static [MemoryPoint],
}

/// The value of a metric on an example.
#[derive(Clone, Copy, Debug)]
pub struct Worked {
    /// The example.
    pub example: &'static Example,
    /// The value, right to 1e-6.
    pub value: f64,
}

impl Example {
    /// What a metric gives for this example.
    pub fn value(&self, metric: &Metric) -> Option<f64> {
        let history = (self.history)();
        let measured = Measured::of(&history).ok()?;
        metric.compute(&Measured {
            reference: self.reference,
            sweep: self.sweep,
            ..measured
        })
    }
}

/// All examples.
pub static EXAMPLES: [&Example; 6] = [&E1, &E2, &LIBRARIES, &ONLINE, &GAP, &SWEEP];

/// Three tasks of unequal size, forgetting, untrained model and joint reference.
pub static E1: Example = Example {
    name: "E1",
    meaning: "three disjoint tasks of one class, 100, 200 and 300 test images. R = [0.90 0.10 0.05] \
              [0.70 0.80 0.20] [0.60 0.75 0.85], one row after each task; the untrained model has \
              b = (0.1, 0.1, 0.1), the joint reference a* = (0.92, 0.88, 0.90)",
    history: || {
        let untrained = evaluation(0, None, &[(10, 100), (20, 200), (30, 300)]);
        let ends = [
            [(90, 100), (20, 200), (15, 300)],
            [(70, 100), (160, 200), (60, 300)],
            [(60, 100), (150, 200), (255, 300)],
        ];
        disjoint(3, std::iter::once(untrained).chain(task_ends(&ends)))
    },
    reference: &[0.92, 0.88, 0.90],
    sweep: &[],
};

/// Old tasks get better, which tells definitions of forgetting apart.
pub static E2: Example = Example {
    name: "E2",
    meaning: "three disjoint tasks of one class, 100 test images each, of which old ones get \
              better. R = [0.60 0.00 0.00] [0.80 0.50 0.00] [0.70 0.60 0.40]",
    history: || {
        let ends = [[60, 0, 0], [80, 50, 0], [70, 60, 40]];
        disjoint(3, task_ends(&ends.map(|row| row.map(of_hundred))))
    },
    reference: &[],
    sweep: &[],
};

/// Five tasks on which the libraries' numbers differ most.
pub static LIBRARIES: Example = Example {
    name: "L5",
    meaning: "five disjoint tasks of one class, 100 test images each, tested once met, on which \
              the libraries differ. R = [0.95] [0.80 0.92] [0.84 0.70 0.86] [0.60 0.95 0.90 0.93] \
              [0.66 0.58 0.71 0.74 0.91]",
    history: || {
        let rows: [&[u32]; 5] = [
            &[95],
            &[80, 92],
            &[84, 70, 86],
            &[60, 95, 90, 93],
            &[66, 58, 71, 74, 91],
        ];
        let ends = rows.map(|row| row.iter().copied().map(of_hundred).collect::<Vec<_>>());
        disjoint(5, task_ends(&ends))
    },
    reference: &[],
    sweep: &[],
};

/// An online stream whose two tasks share a class.
pub static ONLINE: Example = Example {
    name: "O",
    meaning: "an online stream of 3000 samples and two tasks with the classes {0, 1} and {1, 2}, \
              tested at every 1000 samples and at the end of task 1 (1500). Right answers of 100, \
              100 and 50 test images: 60, 40 | 80, 40 (end of task 1) | 60, 50, 35 | 60, 70, 40 \
              (end of task 2). Before they were learned, 600 of the first 1500 samples and 900 of \
              the others were predicted right",
    history: || History {
        task_classes: vec![vec![ClassId(0), ClassId(1)], vec![ClassId(1), ClassId(2)]],
        disjoint: false,
        period: Some(Period::Samples(1000)),
        evaluations: vec![
            periodic(evaluation(1000, None, &[(60, 100), (40, 100)])),
            evaluation(1500, Some(0), &[(80, 100), (40, 100)]),
            periodic(evaluation(2000, None, &[(60, 100), (50, 100), (35, 50)])),
            periodic(evaluation(3000, Some(1), &[(60, 100), (70, 100), (40, 50)])),
        ],
        prequential: Some(Prequential {
            tasks: [600, 900]
                .map(|correct| AnswerCount {
                    correct,
                    total: 1500,
                })
                .to_vec(),
        }),
    },
    reference: &[],
    sweep: &[],
};

/// Old tasks that are forgotten inside a task and come back before its end.
pub static GAP: Example = Example {
    name: "G",
    meaning: "three disjoint tasks of one class and 1000 samples, 100 test images each, tested at \
              the end of each task and once inside: 0.90 | 0.40 0.50 (inside) | 0.70 0.80 | 0.50 \
              0.30 0.60 (inside) | 0.60 0.75 0.85",
    history: || {
        let at = |samples, end, correct: &[u32]| {
            let counts: Vec<_> = correct.iter().copied().map(of_hundred).collect();
            evaluation(samples, end, &counts)
        };
        let evaluations = [
            at(1000, Some(0), &[90]),
            periodic(at(1500, None, &[40, 50])),
            at(2000, Some(1), &[70, 80]),
            periodic(at(2500, None, &[50, 30, 60])),
            at(3000, Some(2), &[60, 75, 85]),
        ];
        disjoint(3, evaluations)
    },
    reference: &[],
    sweep: &[],
};

/// Three runs with growing memory.
pub static SWEEP: Example = Example {
    name: "M",
    meaning: "three runs with 7.6, 12.4 and 16.0 MiB, A-bar 0.60, 0.65, 0.70 and A_last 0.50, \
              0.55, 0.62",
    history: History::default,
    reference: &[],
    sweep: &[
        MemoryPoint {
            mebibytes: 7.6,
            average: 0.60,
            last: 0.50,
        },
        MemoryPoint {
            mebibytes: 12.4,
            average: 0.65,
            last: 0.55,
        },
        MemoryPoint {
            mebibytes: 16.0,
            average: 0.70,
            last: 0.62,
        },
    ],
};

/// Right answers and test images of one class.
type Counts = (u32, u32);

fn of_hundred(correct: u32) -> Counts {
    (correct, 100)
}

/// Counts of the classes 0, 1, …
fn evaluation(samples_seen: u64, task_end: Option<u32>, counts: &[Counts]) -> Evaluation {
    let class = |(class, &(correct, total)): (u32, &Counts)| ClassCount {
        class: ClassId(class),
        correct,
        total,
    };
    Evaluation {
        samples_seen,
        task_end: task_end.map(TaskId),
        periodic: false,
        classes: (0..).zip(counts).map(class).collect(),
    }
}

fn periodic(evaluation: Evaluation) -> Evaluation {
    Evaluation {
        periodic: true,
        ..evaluation
    }
}

fn task_ends(rows: &[impl AsRef<[Counts]>]) -> impl Iterator<Item = Evaluation> {
    let end = |(task, row): (u32, _)| {
        let samples = 1000 * u64::from(task + 1);
        evaluation(samples, Some(task), AsRef::as_ref(row))
    };
    (0..).zip(rows).map(end)
}

/// A history of so many tasks of one class each.
fn disjoint(tasks: u32, evaluations: impl IntoIterator<Item = Evaluation>) -> History {
    History {
        task_classes: (0..tasks).map(|class| vec![ClassId(class)]).collect(),
        disjoint: true,
        evaluations: evaluations.into_iter().collect(),
        ..History::default()
    }
}
