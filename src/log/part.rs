//! A member's part in a group: what it holds, and what the group asks of it.

use std::collections::VecDeque;

use crate::{domain::Assignment, log::Asked};

/// What the group and the processor agree on. The group asks whenever it likes; the processor
/// answers when it has done what that takes, by which time the group may have changed its mind.
#[derive(Debug, Default)]
pub(crate) struct Part {
    asked: VecDeque<Asked>,
    held: Assignment,
    has_joined: bool,
}

impl Part {
    /// The group asks. What is lost is not held from now on, and nothing that was asked before
    /// counts any more.
    pub(crate) fn ask(&mut self, asked: Asked) {
        match &asked {
            Asked::Take(_) => self.has_joined = true,
            Asked::Release(_) => {}
            Asked::Lost => self.clear(),
        }
        self.asked.push_back(asked);
    }

    /// Nothing is held or asked any more.
    pub(crate) fn clear(&mut self) {
        self.asked.clear();
        self.held = Assignment::default();
    }

    /// What is to be answered next.
    pub(crate) fn next(&self) -> Option<&Asked> {
        self.asked.front()
    }

    pub(crate) fn held(&self) -> &Assignment {
        &self.held
    }

    /// Whether the group has given this member its part, which may be nothing.
    pub(crate) fn has_joined(&self) -> bool {
        self.has_joined
    }

    /// The processor answers; `false`, and nothing changes, where the group asks for something else
    /// by now.
    pub(crate) fn answer(&mut self, asked: &Asked) -> bool {
        if self.next() != Some(asked) {
            return false;
        }
        match asked {
            Asked::Take(partitions) => self.held.merge(partitions),
            Asked::Release(partitions) => self.held.subtract(partitions),
            Asked::Lost => {}
        }
        self.asked.pop_front();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partitions(all: &[u32]) -> Assignment {
        all.iter().map(|partition| ("events", *partition)).collect()
    }

    #[test]
    fn what_the_group_has_withdrawn_is_not_taken() {
        let mut part = Part::default();
        let (one, two) = (Asked::Take(partitions(&[1])), Asked::Take(partitions(&[2])));
        part.ask(one.clone());
        part.ask(Asked::Lost);
        part.ask(two.clone());
        assert!(!part.answer(&one));
        assert_eq!((part.next(), part.held()), (Some(&Asked::Lost), &Assignment::default()));
        assert!(part.answer(&Asked::Lost));
        assert!(!part.answer(&one) && part.answer(&two));
        assert_eq!((part.next(), part.held()), (None, &partitions(&[2])));
    }

    #[test]
    fn what_is_lost_is_not_held_even_before_that_is_answered() {
        let mut part = Part::default();
        for asked in [Asked::Take(partitions(&[1, 2])), Asked::Release(partitions(&[2]))] {
            part.ask(asked.clone());
            assert!(part.answer(&asked));
        }
        assert_eq!(part.held(), &partitions(&[1]));
        part.ask(Asked::Release(partitions(&[1])));
        part.ask(Asked::Lost);
        assert_eq!(part.held(), &Assignment::default());
        assert!(!part.answer(&Asked::Release(partitions(&[1]))), "withdrawn");
    }
}
