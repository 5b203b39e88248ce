use everburn_core::{ClassId, Error, Result, TaskId};

use super::{Manifest, ManifestTask};
use crate::MAX_CLASSES;

const ORDER_FIELD: &str = "field `class_order` of the manifest";

/// No task yet.
const NOWHERE: u32 = u32::MAX;

/// The task that last had to do with a sample or class.
struct Marks {
    /// In which task a sample is.
    sample: Vec<u32>,
    /// Which task lists a class.
    listed: Vec<u32>,
    /// Which task has a sample of a class.
    met: Vec<u32>,
}

impl Manifest {
    /// Checks the manifest against the labels of the data set that it is to be used with.
    ///
    /// In a valid manifest the data set has the size that the manifest says; every class is below
    /// `num_classes`; the class order names no class twice; every index is in the data set and in
    /// the stream at most once; and each task lists exactly the classes of its samples, in the
    /// order of the class order.
    ///
    /// # Errors
    /// Names the first thing that is not so.
    pub fn validate(&self, labels: &[ClassId]) -> Result<()> {
        if labels.len() != self.num_samples {
            let expected = format!("{}, as the manifest was made for", self.num_samples);
            return Err(Error::input(
                "labels of the data set",
                labels.len(),
                expected,
            ));
        }
        if self.num_classes > MAX_CLASSES {
            let expected = format!("at most {MAX_CLASSES}");
            let what = "field `num_classes` of the manifest";
            return Err(Error::input(what, self.num_classes, expected));
        }
        let places = self.places()?;
        let mut marks = Marks {
            sample: vec![NOWHERE; labels.len()],
            listed: vec![NOWHERE; self.num_classes],
            met: vec![NOWHERE; self.num_classes],
        };
        for (id, task) in self.tasks() {
            self.check_classes(id, task, &places, &mut marks)?;
            check_samples(id, task, labels, &mut marks)?;
            check_no_class_is_idle(id, task, &marks)?;
        }
        Ok(())
    }

    /// The place of each class in the class order; the number of the class where there is no order.
    fn places(&self) -> Result<Vec<u32>> {
        let mut places = vec![NOWHERE; self.num_classes];
        if self.class_order.is_empty() {
            return Ok((0..).take(self.num_classes).collect());
        }
        for (place, class) in (0..).zip(&self.class_order) {
            match places.get_mut(class.0 as usize) {
                Some(slot) if *slot == NOWHERE => *slot = place,
                Some(_) => {
                    let found = format!("{class} twice");
                    return Err(Error::input(ORDER_FIELD, found, "every class at most once"));
                }
                None => return Err(self.class_too_large(ORDER_FIELD, *class)),
            }
        }
        Ok(places)
    }

    /// Checks a task's list of classes, and marks them as the task's.
    fn check_classes(
        &self,
        id: TaskId,
        task: &ManifestTask,
        places: &[u32],
        marks: &mut Marks,
    ) -> Result<()> {
        let field = || format!("field `classes` of {id} of the manifest");
        let mut before = None;
        for class in &task.classes {
            let place = *(places.get(class.0 as usize))
                .ok_or_else(|| self.class_too_large(&field(), *class))?;
            if before.is_some_and(|before| before >= place) || place == NOWHERE {
                let expected = "classes once each, in the manifest's class order";
                return Err(Error::input(field(), class, expected));
            }
            before = Some(place);
            if let Some(mark) = marks.listed.get_mut(class.0 as usize) {
                *mark = id.0;
            }
        }
        Ok(())
    }

    fn class_too_large(&self, field: &str, class: ClassId) -> Error {
        let expected = format!("below the {} classes", self.num_classes);
        Error::input(field, class, expected)
    }
}

/// Checks that a task's samples exist, are new, and belong to its classes.
fn check_samples(
    id: TaskId,
    task: &ManifestTask,
    labels: &[ClassId],
    marks: &mut Marks,
) -> Result<()> {
    let field = || format!("field `indices` of {id} of the manifest");
    for index in &task.indices {
        let position = *index as usize;
        let (Some(class), Some(owner)) = (labels.get(position), marks.sample.get_mut(position))
        else {
            let expected = format!("below the {} samples of the data set", labels.len());
            return Err(Error::input(field(), index, expected));
        };
        if *owner != NOWHERE {
            let found = format!("{index}, already in {}", TaskId(*owner));
            return Err(Error::input(field(), found, "every sample at most once"));
        }
        *owner = id.0;
        let class_position = class.0 as usize;
        if marks.listed.get(class_position) != Some(&id.0) {
            let found = format!("sample {index} of {class}");
            return Err(Error::input(field(), found, "one of the task's classes"));
        }
        if let Some(met) = marks.met.get_mut(class_position) {
            *met = id.0;
        }
    }
    Ok(())
}

/// Checks that a task has a sample of each class it lists.
fn check_no_class_is_idle(id: TaskId, task: &ManifestTask, marks: &Marks) -> Result<()> {
    let idle = |class: &&ClassId| marks.met.get(class.0 as usize) != Some(&id.0);
    match task.classes.iter().find(idle) {
        None => Ok(()),
        Some(class) => {
            let what = format!("field `classes` of {id} of the manifest");
            let found = format!("{class}, of which the task has no sample");
            Err(Error::input(what, found, "only classes with samples"))
        }
    }
}
