use std::collections::BTreeSet;
use std::mem;
use std::sync::{Mutex, PoisonError};

/// As many notes as anybody reads.
const LIMIT: usize = 100;

/// What went wrong without ending anything, each thing said once.
#[derive(Debug, Default)]
pub(crate) struct Notes(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    ever: BTreeSet<String>,
    waiting: Vec<String>,
}

impl Notes {
    pub(crate) fn add(&self, note: String) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let note = match said.ever.len() {
            ..LIMIT => note,
            LIMIT => "feature cache: further notes are left out".to_owned(),
            _ => return,
        };
        if said.ever.insert(note.clone()) {
            said.waiting.push(note);
        }
    }

    /// Those since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        mem::take(&mut said.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_given_once_and_not_without_end() {
        let notes = Notes::default();
        notes.add("a".to_owned());
        notes.add("a".to_owned());
        assert_eq!(notes.take(), ["a"]);
        notes.add("a".to_owned());
        assert!(notes.take().is_empty());
        (0..1000).for_each(|number| notes.add(number.to_string()));
        let taken = notes.take();
        assert_eq!(taken.len(), LIMIT);
        assert!(taken.last().unwrap().contains("left out"));
    }
}
