//! What is pushed under one name: a file, or with `--sort-by` all files as one.

use super::{read::Input, sort::Sort, state::hash};

/// Rows that are sent one after the other by one producer.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) inputs: Vec<Input>,
    /// `None`: one file, as it stands.
    pub(super) sort: Option<Sort>,
}

impl Part {
    /// Each file by itself, or all of them sorted.
    pub(super) fn of(inputs: &[Input], sort: Option<&Sort>) -> Vec<Self> {
        match sort {
            Some(sort) => vec![Self { inputs: inputs.to_vec(), sort: Some(sort.clone()) }],
            None => inputs
                .iter()
                .map(|input| Self { inputs: vec![input.clone()], sort: None })
                .collect(),
        }
    }

    /// As the user named it.
    pub(super) fn name(&self) -> String {
        let names: Vec<&str> = self.inputs.iter().map(|input| input.name.as_str()).collect();
        names.join(", ")
    }

    /// Size on disk; 0 where it is not known.
    pub(super) fn bytes(&self) -> u64 {
        let is_known = self.inputs.iter().all(|input| input.path.is_some());
        if is_known { self.inputs.iter().map(|input| input.bytes).sum() } else { 0 }
    }

    /// What it holds and in which order, in hex; empty where standard input is part of it.
    pub(super) fn digest(&self) -> String {
        let digests = self.inputs.iter().map(|input| input.digest.as_str());
        match &self.sort {
            None => digests.collect(),
            Some(_) if self.inputs.iter().any(|input| input.path.is_none()) => String::new(),
            Some(sort) => hash(["sort-by", sort.member.as_str()].into_iter().chain(digests)),
        }
    }

    /// Names the rows of each file: the same on every reading, in whatever order, so that a sorted
    /// push repeats an unsorted one; rounds of a loop differ. Standard input has no digest, so each
    /// reading of it is something else.
    pub(super) fn identities(&self, push_id: &str, round: u64) -> Vec<String> {
        let identity = |input: &Input| {
            let file = input.digest.get(..16).unwrap_or(push_id);
            if round == 0 { file.to_owned() } else { format!("{file}:{push_id}") }
        };
        self.inputs.iter().map(identity).collect()
    }

    /// The same for a resumed push, another for every new one and for every order: a server may
    /// answer a known (producer, sequence) without looking at the events.
    pub(super) fn producer_id(&self, push_id: &str, index: usize) -> String {
        let digest = self.digest();
        let part = digest.get(..16).unwrap_or("stdin");
        format!("push:{part}:{push_id}:{index}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::push::{Encoding, Format};

    fn input(digest: &str) -> Input {
        Input {
            name: format!("{digest}.csv"),
            path: Some("a.csv".into()),
            format: Format::Csv,
            encoding: Encoding::Utf8,
            bytes: 7,
            digest: digest.repeat(32),
        }
    }

    #[test]
    fn an_order_is_another_producer_of_the_same_rows() {
        let inputs = [input("d1"), input("d2")];
        let plain = Part::of(&inputs, None);
        let by = |member: &str| Part::of(&inputs, Some(&Sort::new(member, false))).remove(0);
        let (sorted, other) = (by("a"), by("b"));
        assert_eq!(plain[1].producer_id("p", 1), "push:d2d2d2d2d2d2d2d2:p:1");
        let producers = [&plain[0], &sorted, &other].map(|part| part.producer_id("p", 0));
        assert!(producers[0] != producers[1] && producers[1] != producers[2], "{producers:?}");
        assert_eq!(sorted.producer_id("p", 0), by("a").producer_id("p", 0));
        assert_eq!(sorted.identities("p", 0)[1..], plain[1].identities("p", 0));
        assert_eq!((sorted.name().as_str(), sorted.bytes()), ("d1.csv, d2.csv", 14));
    }
}
