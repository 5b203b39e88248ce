//! For every rule, learners that are wrong on purpose, and that the rule catches.
//!
//! The learner is the nearest class mean on raw pixels, with a small memory of images, a jitter drawn
//! from its key, and a count of stages: little enough to read, and enough to get everything wrong.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use everburn_conformance::{Lab, RULES, Subject, check};
use everburn_core::{
    Array, Batch, Borders, ClassId, Ctx, Error, Event, Footprint, Held, ImageShape, Images, Key,
    Kind, Learner, Order, Output, Reservoir, ReservoirRule, Result, SeenClasses, Source, Spec,
    Stage, State, Step, StepLog, TaskInfo, View,
};
use everburn_nn::Tuning;
use rand::RngExt as _;

const SHAPE: ImageShape = ImageShape::new(8, 8, 3);
const BUDGET: usize = 6;
const PER_CLASS: usize = 2;

/// What is wrong with a learner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Flaw {
    CentresTheBatch,
    CentresTheBatchDuringAStage,
    VotesForTheTaskOfABatch,
    RemembersTheTaskAskedForFirst,
    GivesNanForClassesWithFewSamples,
    ScoresClassesNeverSeen,
    PrefersHighNumbers,
    LearnsFromPredictions,
    LearnsAtTheEndOfATask,
    CountsCallsInsteadOfTheKey,
    IgnoresItsKey,
    CallsItselfDeterministic,
    ForgetsACounterWhenSaved,
    RoundsWhenSaved,
    DrawsAnewWhenRestored,
    ForgetsToCountItsMemory,
    StoresOneImageTooMany,
    StoresWithoutABudget,
    CountsFewerImagesThanItStores,
    CallsWhatItHoldsItsBudget,
    StoresImagesAsSmallValues,
    DividesByTheBatchWithoutOne,
    ContrastsTheClassesOfABatch,
    KnowsOnlyAnnouncedClasses,
    DividesByTheSamplesWithoutOne,
    TakesTheClassForItsColumn,
    DividesByTheSamplesOfATask,
    IsReadyOnlyAtTheEndOfAStage,
    NeedsBordersWithoutSayingSo,
    AsksForTasksOnAnyStream,
    TakesImagesOfAnySize,
    TakesLabelsOfAnyNumber,
    TakesAnyState,
    HalfRestores,
}
use Flaw::*;

/// The rule that must catch each flaw.
const CAUGHT: &[(&str, &[Flaw])] = &[
    (
        "prediction_depends_on_the_image_alone",
        &[CentresTheBatch, CentresTheBatchDuringAStage],
    ),
    (
        "task_identity_has_no_influence",
        &[VotesForTheTaskOfABatch, RemembersTheTaskAskedForFirst],
    ),
    (
        "scores_are_finite_and_cover_the_classes_seen",
        &[GivesNanForClassesWithFewSamples, ScoresClassesNeverSeen],
    ),
    ("labels_are_names", &[PrefersHighNumbers]),
    (
        "nothing_learns_outside_observe_and_stage_events",
        &[LearnsFromPredictions, LearnsAtTheEndOfATask],
    ),
    (
        "the_seed_decides_the_result",
        &[
            CountsCallsInsteadOfTheKey,
            IgnoresItsKey,
            CallsItselfDeterministic,
        ],
    ),
    (
        "a_killed_run_goes_on_to_the_byte",
        &[
            ForgetsACounterWhenSaved,
            RoundsWhenSaved,
            DrawsAnewWhenRestored,
        ],
    ),
    (
        "the_footprint_is_the_bytes_of_the_state",
        &[ForgetsToCountItsMemory, StoresImagesAsSmallValues],
    ),
    (
        "memories_keep_their_budget",
        &[
            StoresOneImageTooMany,
            StoresWithoutABudget,
            CountsFewerImagesThanItStores,
            CallsWhatItHoldsItsBudget,
        ],
    ),
    ("a_batch_of_one_image", &[DividesByTheBatchWithoutOne]),
    ("a_batch_of_one_class", &[ContrastsTheClassesOfABatch]),
    (
        "an_unseen_class_in_mid_stream",
        &[KnowsOnlyAnnouncedClasses],
    ),
    (
        "a_class_with_a_single_sample",
        &[DividesByTheSamplesWithoutOne],
    ),
    ("labels_out_of_order", &[TakesTheClassForItsColumn]),
    ("an_empty_task", &[DividesByTheSamplesOfATask]),
    ("a_stream_that_ends_early", &[IsReadyOnlyAtTheEndOfAStage]),
    (
        "what_a_stream_lacks_is_refused_before_it_starts",
        &[NeedsBordersWithoutSayingSo, AsksForTasksOnAnyStream],
    ),
    (
        "bad_input_is_an_error_that_says_why",
        &[TakesImagesOfAnySize, TakesLabelsOfAnyNumber],
    ),
    (
        "a_state_that_does_not_fit_is_refused",
        &[TakesAnyState, HalfRestores],
    ),
];

fn capacity(way: Way, flaw: Option<Flaw>) -> usize {
    match flaw {
        _ if way == Way::BudgetPerClass => 1000,
        Some(StoresOneImageTooMany) => BUDGET + 1,
        Some(CallsWhatItHoldsItsBudget) => 1000,
        _ => BUDGET,
    }
}

/// Ways to be right that a rule must not mistake for wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Way {
    #[default]
    Plain,
    /// Needs borders, sees a task's samples twice, and is ready when a synthetic stage has ended.
    Solves,
    /// Scores are probabilities: a new class changes them all.
    Probabilities,
    /// So many images for each class, like iCaRL.
    BudgetPerClass,
}

/// The mean of each class's pixels.
struct Means {
    way: Way,
    flaw: Option<Flaw>,
    seen: SeenClasses,
    announced: Vec<ClassId>,
    counts: Vec<i64>,
    /// `[classes, pixels]`.
    sums: Vec<f64>,
    /// What is used to predict, `[classes]`: which of the sums are ready.
    ready: usize,
    memory: Reservoir,
    stages: u64,
    in_stage: bool,
    jitter: f64,
    asked: Cell<Option<usize>>,
    predictions: Cell<u32>,
}

impl Means {
    fn new(way: Way, flaw: Option<Flaw>, key: Key) -> Self {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let key = match flaw {
            Some(CountsCallsInsteadOfTheKey) => {
                Key::from_seed(CALLS.fetch_add(1, Ordering::Relaxed))
            }
            Some(IgnoresItsKey) => Key::from_seed(0),
            _ => key,
        };
        let capacity = capacity(way, flaw);
        Self {
            way,
            flaw,
            seen: SeenClasses::default(),
            announced: Vec::new(),
            counts: Vec::new(),
            sums: Vec::new(),
            ready: 0,
            memory: Reservoir::new(capacity, ReservoirRule::Exact),
            stages: 0,
            in_stage: false,
            jitter: key.child("jitter").rng().random::<f64>(),
            asked: Cell::new(None),
            predictions: Cell::new(0),
        }
    }

    fn is(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn check_size(&self, images: &Images) -> Result<()> {
        if images.is_empty() {
            return Err(Error::input("a batch", "no image", "at least one"));
        }
        if images.shape() != SHAPE && !self.is(TakesImagesOfAnySize) {
            return Err(Error::input("image size", images.shape(), SHAPE));
        }
        Ok(())
    }

    fn columns(&self) -> Vec<ClassId> {
        let mut classes = self.seen.as_slice()[..self.ready].to_vec();
        if self.is(ScoresClassesNeverSeen) {
            classes.push(ClassId(999));
        }
        if self.is(TakesTheClassForItsColumn) {
            classes = (0..self.ready as u32).map(ClassId).collect();
        }
        classes
    }

    /// −‖x − mean‖ for each column.
    fn scores(&self, pixels: &[u8], offset: f64) -> Vec<f32> {
        let few = if self.is(GivesNanForClassesWithFewSamples) {
            4
        } else {
            0
        };
        let score = |class: &ClassId| {
            let Some(row) = self.seen.index(*class) else {
                return 0.0;
            };
            let count = self.counts[row];
            let divisor = match self.flaw {
                Some(DividesByTheSamplesWithoutOne) => (count - 1) as f64,
                _ => count as f64,
            };
            let bytes = SHAPE.bytes();
            let sums = &self.sums[row * bytes..(row + 1) * bytes];
            let square = |(x, sum): (&u8, &f64)| (f64::from(*x) - offset - sum / divisor).powi(2);
            let distance: f64 = pixels.iter().zip(sums).map(square).sum::<f64>().sqrt();
            let number = if self.is(PrefersHighNumbers) {
                f64::from(class.0)
            } else {
                0.0
            };
            let asked = f64::from(self.predictions.get());
            let extra = self.jitter + self.stages as f64 + number + asked;
            if count < few {
                f32::NAN
            } else {
                (extra - distance) as f32
            }
        };
        let mut columns = self.columns();
        if self.is(TakesTheClassForItsColumn) {
            columns = self.seen.as_slice()[..self.ready].to_vec();
        }
        columns.iter().map(score).collect()
    }
}

impl Learner for Means {
    fn spec(&self) -> Spec {
        Spec {
            borders: if self.way == Way::Solves {
                Borders::Needed
            } else {
                Borders::NotNeeded
            },
            deterministic: self.is(CallsItselfDeterministic),
            ..Spec::new("means")
        }
    }

    fn stages(&self, task: Option<&TaskInfo>) -> Vec<Stage> {
        let solves = self.way == Way::Solves;
        let single = task.is_none_or(|task| task.single_pass);
        let online = single && !solves && !self.is(AsksForTasksOnAnyStream);
        let shuffled = solves || (self.is(IgnoresItsKey) && !online);
        let means = Stage {
            name: "means".to_owned(),
            source: if online { Source::Stream } else { Source::Task },
            epochs: if solves { 2 } else { 1 },
            batch: 3,
            view: View::Test,
            order: if shuffled {
                Order::Shuffled
            } else {
                Order::Stream
            },
            drop_last: false,
        };
        let solve = Stage {
            name: "solve".to_owned(),
            source: Source::Synthetic { steps: 2 },
            ..means.clone()
        };
        if solves {
            vec![means, solve]
        } else {
            vec![means]
        }
    }

    fn on(&mut self, event: &Event, _cx: &Ctx) -> Result<()> {
        match event {
            Event::TaskBegin(task) => self.announced.extend(&task.classes),
            Event::StageBegin(_) => self.in_stage = true,
            Event::StageEnd(_) => {
                self.in_stage = false;
                self.stages += 1;
                self.ready = self.seen.len();
            }
            Event::TaskEnd(task) => {
                if self.is(DividesByTheSamplesOfATask) && task.samples == 0 {
                    return Err(Error::other("means", "division by the samples of the task"));
                }
                if self.is(LearnsAtTheEndOfATask) {
                    self.sums.iter_mut().for_each(|sum| *sum *= 0.9);
                }
            }
        }
        Ok(())
    }

    fn observe(&mut self, batch: &Batch, step: &Step, cx: &Ctx) -> Result<StepLog> {
        if self.way == Way::Solves && batch.images.is_empty() && batch.labels.is_empty() {
            return Ok(StepLog::default()); // a synthetic step
        }
        self.check_size(&batch.images)?;
        let (images, labels) = (&batch.images, &batch.labels);
        if images.len() != labels.len() && !self.is(TakesLabelsOfAnyNumber) {
            return Err(Error::input("labels", labels.len(), images.len()));
        }
        if self.is(NeedsBordersWithoutSayingSo) && step.task.is_none() {
            return Err(Error::other("means", "no task"));
        }
        if self.is(DividesByTheBatchWithoutOne) && labels.len() == 1 {
            return Err(Error::other("means", "division by 0"));
        }
        let first = labels.first();
        let one_class = labels.len() > 1 && labels.iter().all(|label| Some(label) == first);
        if self.is(ContrastsTheClassesOfABatch) && one_class {
            return Err(Error::other("means", "no other class to contrast with"));
        }
        for (index, label) in labels.iter().enumerate().take(images.len()) {
            if self.is(KnowsOnlyAnnouncedClasses) && !self.announced.contains(label) {
                return Err(Error::input("label", label, "an announced class"));
            }
            let row = self.seen.insert(*label);
            if row == self.counts.len() {
                self.counts.push(0);
                self.sums.resize(self.sums.len() + SHAPE.bytes(), 0.0);
            }
            self.counts[row] += 1;
            let sums = &mut self.sums[row * SHAPE.bytes()..(row + 1) * SHAPE.bytes()];
            for (sum, pixel) in sums.iter_mut().zip(images.image(index)) {
                *sum += f64::from(*pixel) + self.jitter;
            }
        }
        if !self.is(IsReadyOnlyAtTheEndOfAStage) && self.way != Way::Solves {
            self.ready = self.seen.len();
        }
        if self.way == Way::BudgetPerClass {
            // The first two of each class.
            for (index, label) in labels.iter().enumerate() {
                let stored = self
                    .memory
                    .labels()
                    .iter()
                    .filter(|class| *class == label)
                    .count();
                if stored < PER_CLASS {
                    self.memory
                        .insert(&images.select(&[index])?, &[*label], cx.key)?;
                }
            }
        } else if images.len() == labels.len() && images.shape() == SHAPE {
            self.memory.insert(images, labels, cx.key.child("memory"))?;
        }
        Ok(StepLog::default())
    }

    fn predict(&self, images: &Images) -> Result<Output> {
        if self.ready == 0 {
            return Output::new(Vec::new(), Vec::new());
        }
        self.check_size(images)?;
        if self.is(LearnsFromPredictions) {
            self.predictions.set(self.predictions.get() + 1);
        }
        let mean = |images: &Images| {
            let sum: f64 = images.pixels().iter().map(|x| f64::from(*x)).sum();
            sum / images.pixels().len() as f64
        };
        let centres =
            self.is(CentresTheBatch) || (self.is(CentresTheBatchDuringAStage) && self.in_stage);
        let offset = if centres { mean(images) } else { 0.0 };
        let rows: Vec<Vec<f32>> = (0..images.len())
            .map(|index| self.scores(images.image(index), offset))
            .collect();
        let mut scores = rows.concat();
        // The best class of the first image stands for its task.
        let best = |row: &[f32]| {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            best.map_or(0, |(column, _)| column / 2)
        };
        let votes: Vec<usize> = rows.iter().map(|row| best(row)).collect();
        let columns = self.columns().len();
        let favour = |scores: &mut Vec<f32>, task: usize| {
            for (place, score) in scores.iter_mut().enumerate() {
                if place % columns / 2 == task {
                    *score += 100.0;
                }
            }
        };
        // A majority that singles, which agree with themselves, and mixtures do not have.
        let unanimous = votes.len() > 1 && votes.iter().all(|vote| *vote == votes[0]);
        if self.is(VotesForTheTaskOfABatch) && unanimous {
            favour(&mut scores, votes[0]);
        }
        if self.is(RemembersTheTaskAskedForFirst) {
            let task = self.asked.get().unwrap_or(votes[0]);
            self.asked.set(Some(task));
            favour(&mut scores, task);
        }
        if self.way == Way::Probabilities {
            for row in scores.chunks_mut(columns) {
                let largest = row.iter().fold(f32::MIN, |a, b| a.max(*b));
                row.iter_mut()
                    .for_each(|score| *score = ((*score - largest) / 1000.0).exp());
                let sum: f32 = row.iter().sum();
                row.iter_mut().for_each(|score| *score /= sum);
            }
        }
        Output::new(self.columns(), scores)
    }

    fn footprint(&self) -> Footprint {
        let mut footprint = Footprint {
            macs_per_image: 1 + self.sums.len() as u64,
            ..Footprint::default()
        };
        footprint.add(
            Kind::Statistics,
            "sums",
            8 * (self.sums.len() + self.counts.len()) as u64,
        );
        let per_class = self.way == Way::BudgetPerClass;
        let budget = if per_class {
            PER_CLASS * self.ready
        } else {
            BUDGET
        };
        let mut held = Held {
            images: self.memory.len() as u64,
            budget: budget as u64,
        };
        if self.is(CountsFewerImagesThanItStores) {
            held.images /= 2;
        }
        if self.is(CallsWhatItHoldsItsBudget) {
            held.budget = held.images;
        }
        match self.flaw {
            Some(ForgetsToCountItsMemory) => {}
            Some(StoresWithoutABudget) => {
                footprint.add(Kind::Exemplars, "memory", self.memory.bytes())
            }
            _ => footprint.add_exemplars("memory", self.memory.bytes(), held),
        }
        footprint
    }

    fn save(&self) -> Result<State> {
        let mut state = State::default();
        let round = |x: &f64| {
            if self.is(RoundsWhenSaved) {
                f64::from(*x as f32)
            } else {
                *x
            }
        };
        let sums = Array {
            shape: vec![self.counts.len(), SHAPE.bytes()],
            values: everburn_core::Values::F64(self.sums.iter().map(round).collect()),
        };
        state.put("sums", sums);
        state.put(
            "counts",
            Array::i64([self.counts.len()], self.counts.clone()),
        );
        state.put_value("seen", &self.seen)?;
        state.put_value("announced", &self.announced)?;
        state.put_value("ready", self.ready)?;
        if !self.is(ForgetsACounterWhenSaved) {
            state.put_value("stages", self.stages)?;
        }
        state.put_value("in_stage", self.in_stage)?;
        if !self.is(DrawsAnewWhenRestored) {
            state.put_value("jitter", self.jitter)?;
        }
        state.nest("memory", self.memory.save()?);
        if self.is(StoresImagesAsSmallValues) {
            state.put_value(
                "images",
                vec![0.125; 200 * self.counts.iter().sum::<i64>() as usize],
            )?;
        }
        Ok(state)
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        if self.is(TakesAnyState) {
            if let Ok(seen) = state.value("seen") {
                self.seen = seen;
            }
            return Ok(());
        }
        let seen: SeenClasses = state.value("seen")?;
        if self.is(HalfRestores) {
            self.seen = SeenClasses::default();
        }
        let announced = state.value("announced")?;
        let ready = state.value("ready")?;
        let stages = if self.is(ForgetsACounterWhenSaved) {
            0
        } else {
            state.value("stages")?
        };
        let in_stage = state.value("in_stage")?;
        let jitter = if self.is(DrawsAnewWhenRestored) {
            self.jitter
        } else {
            state.value("jitter")?
        };
        let counts = state.i64("counts")?.to_vec();
        let sums = state.array("sums")?;
        let everburn_core::Values::F64(values) = &sums.values else {
            return Err(Error::state("sums", sums.values.dtype(), "f64"));
        };
        let rows = seen.len();
        if counts.len() != rows
            || sums.shape != [rows, SHAPE.bytes()]
            || values.len() != rows * SHAPE.bytes()
        {
            return Err(Error::state("sums", format!("{:?}", sums.shape), rows));
        }
        let mut memory = Reservoir::new(capacity(self.way, self.flaw), ReservoirRule::Exact);
        memory.restore(&state.below("memory"))?;
        (self.seen, self.announced, self.ready, self.stages) = (seen, announced, ready, stages);
        self.in_stage = in_stage;
        (self.jitter, self.counts, self.sums, self.memory) =
            (jitter, counts, values.clone(), memory);
        Ok(())
    }
}

fn learner(way: Way, flaw: Option<Flaw>) -> Subject {
    let build = move |_: &Lab, key| -> Result<Box<dyn Learner>> {
        Ok(Box::new(Means::new(way, flaw, key)))
    };
    Subject::new("means", build)
        .only(Tuning::Frozen)
        .on_cpu_only()
}

fn subject(flaw: Option<Flaw>) -> Subject {
    learner(Way::Plain, flaw)
}

// Learners without a flaw keep all rules, whatever their way.
everburn_conformance::suite!(honest: subject(None));
everburn_conformance::suite!(solves: learner(Way::Solves, None));
everburn_conformance::suite!(probabilities: learner(Way::Probabilities, None));
everburn_conformance::suite!(budget_per_class: learner(Way::BudgetPerClass, None));

#[test]
fn every_rule_catches_its_wrong_learners() {
    let listed: Vec<&str> = CAUGHT.iter().map(|(rule, _)| *rule).collect();
    let rules: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(listed, rules, "every rule has a learner that it catches");
    for ((_, flaws), rule) in CAUGHT.iter().zip(RULES) {
        for flaw in *flaws {
            let caught = check(&subject(Some(*flaw)), rule);
            assert!(caught.is_err(), "`{}` does not catch {flaw:?}", rule.name);
        }
    }
}

/// `docs/conformance.md` lists the rules, the wrong learners, and in which words they are caught.
#[test]
fn the_page_of_rules_is_up_to_date() {
    let mut table = String::new();
    for ((_, flaws), rule) in CAUGHT.iter().zip(RULES) {
        table += &format!("### `{}`\n\n{}\n\n", rule.name, rule.says);
        for flaw in *flaws {
            let said = check(&subject(Some(*flaw)), rule).unwrap_err();
            let said = said
                .lines()
                .nth(1)
                .unwrap()
                .trim()
                .replace("means on cpu: ", "");
            let mut said: String = said.chars().take(200).collect();
            if said.chars().count() == 200 {
                said.push('…');
            }
            table += &format!("- {}: *{said}*\n", words(*flaw));
        }
        table.push('\n');
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/conformance.md");
    let page = std::fs::read_to_string(path).unwrap();
    let marks = ["<!-- rules: begin -->\n\n", "<!-- rules: end -->"];
    let (head, rest) = page.split_once(marks[0]).unwrap();
    let (found, tail) = rest.split_once(marks[1]).unwrap();
    if std::env::var_os("EVERBURN_BLESS").is_some() {
        let page = [head, marks[0], &table, marks[1], tail].concat();
        std::fs::write(path, page).unwrap();
        return;
    }
    assert!(
        found == table,
        "docs/conformance.md differs from the rules; EVERBURN_BLESS=1 writes it anew:\n{table}"
    );
}

/// `CentresTheBatch` as a phrase.
fn words(flaw: Flaw) -> String {
    let mut text = String::from("one that");
    for character in format!("{flaw:?}").chars() {
        if character.is_uppercase() {
            text.push(' ');
        }
        text.extend(character.to_lowercase());
    }
    text
}

/// No flaw breaks every rule: a suite that cries at everything tells nothing. The table goes to the
/// test's output.
#[test]
fn other_rules_stay_calm() {
    let mut alarms: BTreeMap<Flaw, Vec<&str>> = BTreeMap::new();
    for (_, flaws) in CAUGHT {
        for flaw in *flaws {
            let subject = subject(Some(*flaw));
            let broken = RULES.iter().filter(|rule| check(&subject, rule).is_err());
            alarms.insert(*flaw, broken.map(|rule| rule.name).collect());
        }
    }
    for (flaw, rules) in &alarms {
        println!("{flaw:?}: {}", rules.join(", "));
        assert!(rules.len() < RULES.len(), "{flaw:?} breaks {rules:?}");
    }
}
