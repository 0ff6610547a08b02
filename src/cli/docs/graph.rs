//! What is made of what, drawn: the oldest ancestors at the left, each relation right of all that
//! it reads.

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::lineage::Node;

const BOX: (usize, usize) = (190, 26);
const GAP: (usize, usize) = (60, 12);
const EDGE: usize = 4;
/// Longest name that fits into a box.
const NAME: usize = 27;

/// The relations that `name` is made of and those that are made of it, itself included.
pub(super) fn around<'a>(nodes: &'a [Node], name: &str) -> Vec<&'a Node> {
    let mut wanted = BTreeSet::from([name]);
    // Parents stand before children.
    for node in nodes.iter().rev() {
        if wanted.contains(node.name.as_str()) {
            wanted.extend(node.reads.iter().map(String::as_str));
        }
    }
    let mut behind = BTreeSet::from([name]);
    for node in nodes {
        if node.reads.iter().any(|parent| behind.contains(parent.as_str())) {
            behind.insert(&node.name);
        }
    }
    let is_in =
        |node: &&Node| wanted.contains(node.name.as_str()) || behind.contains(node.name.as_str());
    nodes.iter().filter(is_in).collect()
}

/// An SVG of `nodes`, which stand parents first; `here` is marked. Boxes link to the pages.
pub(super) fn svg(nodes: &[&Node], here: Option<&str>, page: impl Fn(&str) -> String) -> String {
    let places = places(nodes);
    let across = |column: usize| EDGE + column * (BOX.0 + GAP.0);
    let down = |row: usize| EDGE + row * (BOX.1 + GAP.1);
    let columns = places.values().map(|(column, _)| column + 1).max().unwrap_or(0);
    let rows = places.values().map(|(_, row)| row + 1).max().unwrap_or(0);
    let (width, height) = (across(columns), down(rows));
    let mut svg = format!(
        "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
         aria-label=\"Lineage\">"
    );
    for node in nodes {
        let Some(&(column, row)) = places.get(node.name.as_str()) else { continue };
        let (x, y) = (across(column), down(row) + BOX.1 / 2);
        for parent in node.reads.iter().filter_map(|parent| places.get(parent.as_str())) {
            let (from_x, from_y) = (across(parent.0) + BOX.0, down(parent.1) + BOX.1 / 2);
            let middle = usize::midpoint(from_x, x);
            svg += &format!(
                "<path d=\"M{from_x} {from_y} C{middle} {from_y} {middle} {y} {x} {y}\"/>"
            );
        }
    }
    for node in nodes {
        let Some(&(column, row)) = places.get(node.name.as_str()) else { continue };
        let class = if here == Some(&node.name) { " class=\"here\"" } else { "" };
        let (x, y) = (across(column), down(row));
        svg += &format!(
            "<a href=\"{}\"{class}><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" \
             rx=\"5\"/><text x=\"{}\" y=\"{}\">{}</text></a>",
            page(&node.name),
            node.name,
            BOX.0,
            BOX.1,
            x + 9,
            y + 17,
            shortened(&node.name)
        );
    }
    svg + "</svg>"
}

/// Names hold no character that means something in SVG.
fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME {
        return name.to_owned();
    }
    name.chars().take(NAME - 1).chain(['…']).collect()
}

/// Column and row of each node: right of its parents, near their middle.
fn places<'a>(nodes: &[&'a Node]) -> BTreeMap<&'a str, (usize, usize)> {
    let mut columns: BTreeMap<&str, usize> = BTreeMap::new();
    for node in nodes {
        let parents = node.reads.iter().filter_map(|parent| columns.get(parent.as_str()));
        let column = parents.max().map_or(0, |column| column + 1);
        columns.insert(&node.name, column);
    }
    let last = columns.values().max().copied().unwrap_or(0);
    let mut places: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for column in 0..=last {
        let inside = nodes.iter().filter(|node| columns.get(node.name.as_str()) == Some(&column));
        let mut inside: Vec<(usize, &&Node)> = inside
            .map(|node| {
                let parents = node.reads.iter().filter_map(|parent| places.get(parent.as_str()));
                let rows: Vec<usize> = parents.map(|(_, row)| *row).collect();
                // The middle of the parents' rows, in sixteenths.
                (rows.iter().sum::<usize>() * 16 / rows.len().max(1), node)
            })
            .collect();
        inside.sort_by_key(|(middle, _)| *middle);
        for (row, (_, node)) in inside.into_iter().enumerate() {
            places.insert(&node.name, (column, row));
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, reads: &[&str]) -> Node {
        Node {
            name: name.to_owned(),
            kind: "model",
            reads: reads.iter().map(|&read| read.to_owned()).collect(),
            columns: BTreeMap::new(),
        }
    }

    #[test]
    fn every_relation_stands_right_of_what_it_reads() {
        let nodes = [
            node("a", &[]),
            node("b", &[]),
            node("c", &["a"]),
            node("d", &["b", "c"]),
            node("e", &["b"]),
        ];
        let all: Vec<&Node> = nodes.iter().collect();
        let expected = [("a", (0, 0)), ("b", (0, 1)), ("c", (1, 0)), ("d", (2, 0)), ("e", (1, 1))];
        assert_eq!(places(&all), BTreeMap::from(expected));
        let names = |name| around(&nodes, name).iter().map(|n| n.name.clone()).collect::<String>();
        assert_eq!(
            (names("a"), names("e"), names("d")),
            ("acd".into(), "be".into(), "abcd".into())
        );
    }
}
