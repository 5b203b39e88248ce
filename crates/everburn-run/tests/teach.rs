//! Teaching a task without a stream.
#![allow(clippy::unwrap_used)]

use everburn_core::{
    Batch, ClassId, Ctx, Event, Footprint, ImageShape, Images, Key, Learner, Order, Output, Result,
    Source, Spec, Stage, State, Step, StepLog, TaskId, TaskInfo, View,
};
use everburn_run::{Labelled, teach};

/// Asks for its stages, and writes down what it is told.
struct Recorder {
    stages: Vec<Stage>,
    told: Vec<String>,
}

impl Learner for Recorder {
    fn spec(&self) -> Spec {
        Spec::new("recorder")
    }

    fn stages(&self, _: Option<&TaskInfo>) -> Vec<Stage> {
        self.stages.clone()
    }

    fn on(&mut self, event: &Event, _: &Ctx) -> Result<()> {
        self.told.push(match event {
            Event::TaskBegin(task) => format!("{} begins: {:?}", task.task.0, task.classes),
            Event::StageBegin(stage) => format!("{} begins", stage.name),
            Event::StageEnd(stage) => format!("{} ends", stage.name),
            Event::TaskEnd(_) => "end".to_owned(),
        });
        Ok(())
    }

    fn observe(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog> {
        assert_eq!(step.task, Some(TaskId(4)));
        let pixels: Vec<u8> = batch.images.pixels().iter().step_by(3).copied().collect();
        let key = cx.key.child("drawn").permutation(100)[0];
        self.told.push(format!(
            "{}/{} of {}/{}: {pixels:?} drew {key}",
            step.index, step.epoch, step.steps, step.epochs
        ));
        let loss = (!pixels.is_empty()).then_some(step.index as f32);
        Ok(StepLog { loss })
    }

    fn predict(&self, _: &Images) -> Result<Output> {
        Output::new(Vec::new(), Vec::new())
    }

    fn footprint(&self) -> Footprint {
        Footprint::default()
    }

    fn save(&self) -> Result<State> {
        Ok(State::default())
    }

    fn restore(&mut self, _: &State) -> Result<()> {
        Ok(())
    }
}

fn stage(name: &str, source: Source, order: Order) -> Stage {
    Stage {
        name: name.to_owned(),
        source,
        epochs: 2,
        batch: 2,
        view: View::Test,
        order,
        drop_last: false,
    }
}

fn run(stages: Vec<Stage>, key: u64, labels: &[u32]) -> Result<(Vec<String>, Option<f32>)> {
    let shape = ImageShape::new(1, 1, 3);
    let pixels = (0..5_u8).flat_map(|pixel| [pixel; 3]).collect();
    let images = Images::new(shape, pixels)?;
    let labels: Vec<ClassId> = labels.iter().copied().map(ClassId).collect();
    let samples = Labelled {
        images: &images,
        labels: &labels,
    };
    let mut recorder = Recorder {
        stages,
        told: Vec::new(),
    };
    let loss = teach(&mut recorder, TaskId(4), samples, Key::from_seed(key))?;
    Ok((recorder.told, loss))
}

const LABELS: [u32; 5] = [7, 3, 7, 3, 7];

#[test]
fn a_learner_gets_the_stages_that_it_asks_for() {
    let stages = vec![
        stage("train", Source::Task, Order::Shuffled),
        stage("statistics", Source::Task, Order::ByClass),
        stage("dream", Source::Synthetic { steps: 1 }, Order::Stream),
    ];
    let (told, loss) = run(stages, 1, &LABELS).unwrap();
    let shown: Vec<&str> = told
        .iter()
        .map(|line| line.split(" drew").next().unwrap())
        .collect();
    assert_eq!(shown[0], "4 begins: [ClassId(7), ClassId(3)]");
    assert_eq!(shown[1], "train begins");
    // Two shuffled epochs of 2 + 2 + 1, each with all samples.
    for epoch in [&told[2..5], &told[5..8]] {
        for pixel in 0..5 {
            assert!(
                epoch.iter().any(|line| line.contains(&format!("{pixel}"))),
                "{epoch:?}"
            );
        }
    }
    let by_class = ["[0, 2]", "[4]", "[1, 3]"];
    let expected = [0, 1, 2, 3, 4, 5].map(|i| format!("{i}/{} of 6/2: {}", i / 3, by_class[i % 3]));
    assert_eq!(shown[9], "statistics begins");
    assert_eq!(shown[10..16], expected);
    assert_eq!(
        shown[17..],
        [
            "dream begins",
            "0/0 of 2/2: []",
            "1/1 of 2/2: []",
            "dream ends",
            "end"
        ]
    );
    assert_eq!(loss, Some(2.5), "of the last stage that has one");
}

#[test]
fn the_key_decides_order_and_draws() {
    let told = |key| {
        run(
            vec![stage("train", Source::Task, Order::Shuffled)],
            key,
            &LABELS,
        )
        .unwrap()
    };
    assert_eq!(told(1), told(1));
    assert_ne!(told(1), told(2));
}

#[test]
fn what_cannot_be_given_is_refused() {
    let stages = vec![stage("again", Source::AllSeen, Order::Shuffled)];
    let error = run(stages, 1, &LABELS).unwrap_err().to_string();
    assert!(
        error.contains("`again`") && error.contains("earlier tasks"),
        "{error}"
    );
    let error = run(Vec::new(), 1, &LABELS[1..]).unwrap_err().to_string();
    assert!(error.contains("5, one for each image"), "{error}");
}
