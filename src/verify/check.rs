//! The check itself: a pure function of what was sent and what is there.
//!
//! The names of the sets are those of Jepsen's checkers for queues
//! (<https://jepsen-io.github.io/jepsen/jepsen.checker.html>, `total-queue`): an event is acked,
//! rejected, or its outcome is unknown, and what is found may be lost, duplicated or unexpected.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::{
    bronze::Verdict,
    domain::{
        Place,
        identity::{Fingerprint, fingerprint},
    },
    verify::{
        facts::{
            Content, Decided, Facts, Part, Reach, Record, StreamFacts, TableFacts, Unread,
            is_within,
        },
        history::{Outcome, Sent},
        report::{Collected, Kind, Looked, Report},
    },
};

/// Compares what was sent with what is there, and what is there with itself.
pub fn check(sent: &[Sent], facts: &Facts) -> Report {
    let mut report = Report::default();
    report.looked_at.sent = sent.len() as u64;
    for stream in &facts.streams {
        count(&mut report.looked_at, stream);
        check_records(&mut report, stream);
        check_decisions(&mut report, stream);
        check_identities(&mut report, stream);
        check_quarantine(&mut report, stream);
        check_replays(&mut report, stream);
        let sent: Vec<&Sent> = sent.iter().filter(|event| event.stream == stream.name).collect();
        if !sent.is_empty() {
            check_sent(&mut report, stream, &sent);
            check_order(&mut report, stream, &sent);
        }
    }
    check_streams_sent_to(&mut report, sent, facts);
    for table in &facts.tables {
        check_log(&mut report, table);
        check_files(&mut report, table);
        check_content(&mut report, table);
    }
    check_missing(&mut report, facts);
    check_unread(&mut report, facts);
    report.findings.sort_by(|a, b| (a.kind, &a.place).cmp(&(b.kind, &b.place)));
    report.green = report.findings.is_empty();
    report
}

/// Whatever was made for a project stays there.
fn check_missing(report: &mut Report, facts: &Facts) {
    for table in &facts.missing {
        let what = "table that is not there: deleted, or no server has run with this project yet";
        let mut missing = Collected::new(Kind::Version, &table.to_string(), what);
        missing.add(|| table.to_string());
        report.close([missing]);
    }
}

/// What cannot be read is a finding itself, where no file of it is one already.
fn check_unread(report: &mut Report, facts: &Facts) {
    for (stream, table) in &facts.unread_streams {
        report.not_compared.push(format!("stream {stream}: {table} cannot be read"));
    }
    for Unread { table, part, reason } in &facts.unread {
        let name = table.to_string();
        let (kind, what) = match part {
            Part::Log => (Kind::Version, "logs that cannot be read"),
            Part::Rows => (Kind::File, "tables whose rows cannot be read"),
        };
        if !report.findings.iter().any(|found| found.kind == kind && found.place == name) {
            let mut unread = Collected::new(kind, &name, what);
            unread.add(|| reason.clone());
            report.close([unread]);
        }
    }
}

fn count(looked: &mut Looked, stream: &StreamFacts) {
    looked.records += stream.records.len() as u64;
    for decided in &stream.decisions {
        match decided.verdict {
            Verdict::Accepted => looked.accepted += 1,
            Verdict::Repeat => looked.repeats += 1,
            Verdict::Quarantined => looked.quarantined += 1,
        }
    }
}

/// Bronze holds each place once, within its positions, at times that never fall.
fn check_records(report: &mut Report, stream: &StreamFacts) {
    let name = format!("bronze.{}", stream.name);
    let mut twice = Collected::new(Kind::Duplicated, &name, "places that stand there twice");
    let mut beyond = Collected::new(Kind::Position, &name, "rows beyond the committed position");
    let mut falls = Collected::new(Kind::Reordered, &name, "times that fall within a partition");
    let mut records: Vec<&Record> = stream.records.iter().collect();
    records.sort_by_key(|record| record.place);
    for record in &records {
        if !is_within(record.place, &stream.bronze) {
            beyond.add(|| record.place.to_string());
        }
    }
    for pair in records.windows(2) {
        let (one, next) = (pair[0], pair[1]);
        if one.place == next.place {
            twice.add(|| next.place.to_string());
        } else if one.place.partition == next.place.partition && one.ts > next.ts {
            falls.add(|| next.place.to_string());
        }
    }
    report.close([twice, beyond, falls]);
}

/// Every record has one decision, and every decision its record.
fn check_decisions(report: &mut Report, stream: &StreamFacts) {
    let name = format!("acceptance of {}", stream.name);
    let mut missing = Collected::new(Kind::Lost, &name, "records without a decision");
    let mut twice = Collected::new(Kind::Duplicated, &name, "records decided on twice");
    let mut surplus = Collected::new(Kind::Unexpected, &name, "decisions without a record");
    let mut beyond = Collected::new(Kind::Position, &name, "rows beyond the committed position");
    let mut ahead = Collected::new(Kind::Position, &name, "partitions that are ahead of Bronze");
    let mut other = Collected::new(Kind::Corrupted, &name, "accepted under another id than sent");
    let records: HashMap<Place, &Record> =
        stream.records.iter().map(|record| (record.place, record)).collect();
    let mut decided: HashSet<Place> = HashSet::with_capacity(stream.decisions.len());
    for decision in &stream.decisions {
        let place = decision.place;
        if !decided.insert(place) {
            twice.add(|| place.to_string());
        }
        if !is_within(place, &stream.acceptance) {
            beyond.add(|| place.to_string());
        }
        match records.get(&place) {
            None => surplus.add(|| place.to_string()),
            Some(record) => {
                // A mended contract may name another id in what was replayed.
                let is_plain = decision.verdict == Verdict::Accepted && decision.origin.is_none();
                let is_same = record.event_id == decision.event_id
                    && record.identity == Some(decision.identity);
                if is_plain && !is_same {
                    other.add(|| place.to_string());
                }
            }
        }
    }
    for record in &stream.records {
        if is_within(record.place, &stream.acceptance) && !decided.contains(&record.place) {
            missing.add(|| record.place.to_string());
        }
    }
    for (partition, at) in exceeding(&stream.acceptance, &stream.bronze) {
        ahead.add(|| format!("partition {partition} at {at}"));
    }
    report.close([missing, twice, surplus, beyond, ahead, other]);
}

fn exceeding<'a>(reach: &'a Reach, of: &'a Reach) -> impl Iterator<Item = (u32, i64)> + 'a {
    let ahead = reach.iter().filter(|(partition, at)| of.get(partition).is_none_or(|o| o < at));
    ahead.map(|(partition, at)| (*partition, *at))
}

/// An identity is accepted once, and only what was there before is a repeat.
fn check_identities(report: &mut Report, stream: &StreamFacts) {
    let name = format!("acceptance of {}", stream.name);
    let mut twice = Collected::new(Kind::Duplicated, &name, "events accepted twice");
    let mut orphans = Collected::new(Kind::Lost, &name, "repeats of what was never taken");
    let mut first: HashMap<Fingerprint, Vec<&Decided>> = HashMap::new();
    let (mut accepted, mut ids) = (HashSet::new(), HashSet::new());
    for decision in stream.decisions.iter().filter(|d| d.verdict != Verdict::Repeat) {
        if decision.verdict == Verdict::Accepted {
            let is_again = !accepted.insert(decision.identity);
            // Whatever the identity says, nothing is accepted twice under the id that it shows.
            // What was replayed may have been sent under another one.
            let is_again = is_again | (decision.origin.is_none() && !ids.insert(decision.event_id));
            if is_again {
                twice.add(|| decision.place.to_string());
            }
        }
        first.entry(decision.identity).or_default().push(decision);
    }
    for decision in stream.decisions.iter().filter(|d| d.verdict == Verdict::Repeat) {
        // Between partitions there is no order but that of arrival, which was not recorded.
        let before = |other: &&Decided| {
            other.place.partition != decision.place.partition || other.place < decision.place
        };
        let others = first.get(&decision.identity);
        if !others.is_some_and(|others| others.iter().any(before)) {
            orphans.add(|| decision.place.to_string());
        }
    }
    report.close([twice, orphans]);
}

/// Quarantine holds what was set aside, once.
fn check_quarantine(report: &mut Report, stream: &StreamFacts) {
    let name = format!("quarantine.{}", stream.name);
    let mut missing = Collected::new(Kind::Lost, &name, "records set aside that are not there");
    let mut twice = Collected::new(Kind::Duplicated, &name, "records that stand there twice");
    let mut surplus = Collected::new(Kind::Unexpected, &name, "records that were not set aside");
    let mut changed = Collected::new(Kind::Corrupted, &name, "rows with another payload than sent");
    let payloads = payloads(stream);
    let set_aside: BTreeSet<Place> = stream
        .decisions
        .iter()
        .filter(|decision| decision.verdict == Verdict::Quarantined)
        .map(|decision| decision.place)
        .collect();
    let mut found = BTreeSet::new();
    for (place, payload) in &stream.quarantined {
        if !found.insert(*place) {
            twice.add(|| place.to_string());
        }
        if payloads.get(place).is_some_and(|sent| sent != payload) {
            changed.add(|| place.to_string());
        }
        if !set_aside.contains(place) {
            surplus.add(|| place.to_string());
        }
    }
    for place in set_aside.iter().filter(|place| is_within(**place, &stream.quarantine)) {
        if !found.contains(place) {
            missing.add(|| place.to_string());
        }
    }
    report.close([missing, twice, surplus, changed]);
}

fn payloads(stream: &StreamFacts) -> HashMap<Place, Option<Fingerprint>> {
    stream.records.iter().map(|record| (record.place, record.payload)).collect()
}

/// What was replayed was set aside, and is what it was; it is hidden because its event counts.
fn check_replays(report: &mut Report, stream: &StreamFacts) {
    let name = format!("quarantine.{}", stream.name);
    let mut strange = Collected::new(Kind::Unexpected, &name, "replays of what was not set aside");
    let mut changed = Collected::new(Kind::Corrupted, &name, "replays with another payload");
    let mut hidden = Collected::new(Kind::Lost, &name, "replays whose event does not count");
    let payloads = payloads(stream);
    let set_aside: HashSet<Place> = at_verdict(stream, Verdict::Quarantined, |d| d.place);
    let accepted: HashSet<Fingerprint> = at_verdict(stream, Verdict::Accepted, |d| d.identity);
    for decision in &stream.decisions {
        let Some(origin) = decision.origin else { continue };
        if !set_aside.contains(&origin) {
            strange.add(|| decision.place.to_string());
        } else if payloads.get(&origin) != payloads.get(&decision.place) {
            changed.add(|| decision.place.to_string());
        }
        if !accepted.contains(&decision.identity) {
            hidden.add(|| origin.to_string());
        }
    }
    report.close([strange, changed, hidden]);
}

fn at_verdict<T: Eq + std::hash::Hash>(
    stream: &StreamFacts,
    verdict: Verdict,
    of: impl Fn(&Decided) -> T,
) -> HashSet<T> {
    stream.decisions.iter().filter(|d| d.verdict == verdict).map(of).collect()
}

/// What was acked is there as it was sent; what was rejected, or never sent, is not.
fn check_sent(report: &mut Report, stream: &StreamFacts, sent: &[&Sent]) {
    let name = format!("bronze.{}", stream.name);
    let mut lost = Collected::new(Kind::Lost, &name, "acked events that are not there");
    let mut rejected = Collected::new(Kind::Unexpected, &name, "rejected events that are there");
    let mut unsent = Collected::new(Kind::Unexpected, &name, "records that nobody sent");
    let mut corrupted = Collected::new(Kind::Corrupted, &name, "records with another payload");
    let mut uncounted =
        Collected::new(Kind::Lost, &name, "acked events that neither count nor are set aside");
    let mut found: HashMap<Fingerprint, Vec<&Record>> = HashMap::new();
    for record in &stream.records {
        found.entry(record.event_id).or_default().push(record);
    }
    let counted = counted(stream);
    let payloads = payloads_sent(sent);
    for event in sent {
        let id = fingerprint(event.event_id.as_bytes());
        let records = found.get(&id).map_or(&[][..], Vec::as_slice);
        // One id may be sent with several payloads: a bad event, and then its correction.
        let is_one_of = payloads.get(&id).and_then(Option::as_ref).is_some_and(|all| all.len() > 1);
        let is_there = |record: &&Record| !is_one_of || record.payload == event.payload;
        match event.outcome {
            Outcome::Acked if !records.iter().any(is_there) => lost.add(|| event.event_id.clone()),
            Outcome::Acked if !counted.contains(&id) => uncounted.add(|| event.event_id.clone()),
            Outcome::Rejected if records.iter().any(is_there) => {
                rejected.add(|| event.event_id.clone())
            }
            _ => {}
        }
    }
    for record in &stream.records {
        match payloads.get(&record.event_id) {
            None => unsent.add(|| record.place.to_string()),
            Some(Some(all)) if record.payload.is_none_or(|payload| !all.contains(&payload)) => {
                corrupted.add(|| record.place.to_string());
            }
            Some(_) => {}
        }
    }
    report.close([lost, uncounted, rejected, unsent, corrupted]);
}

/// The payloads that were sent under each id; `None` where one of them was not written down.
fn payloads_sent(sent: &[&Sent]) -> HashMap<Fingerprint, Option<HashSet<Fingerprint>>> {
    let mut payloads: HashMap<Fingerprint, Option<HashSet<Fingerprint>>> =
        HashMap::with_capacity(sent.len());
    for event in sent {
        let id = fingerprint(event.event_id.as_bytes());
        let all = payloads.entry(id).or_insert_with(|| Some(HashSet::new()));
        match (all.as_mut(), event.payload) {
            (Some(known), Some(payload)) => drop(known.insert(payload)),
            (_, None) => *all = None,
            (None, Some(_)) => {}
        }
    }
    payloads
}

/// The events, by the id under which Bronze has them, of which some record was accepted or set
/// aside; also those that nothing was decided on yet.
fn counted(stream: &StreamFacts) -> HashSet<Fingerprint> {
    let at: HashMap<Place, Verdict> =
        stream.decisions.iter().map(|decision| (decision.place, decision.verdict)).collect();
    let repeats: HashSet<Fingerprint> = {
        // A bad record that came twice is a repeat of what its content says.
        let taken = stream.decisions.iter().filter(|d| d.verdict != Verdict::Repeat);
        taken.map(|decision| decision.identity).collect()
    };
    let identity: HashMap<Place, Fingerprint> =
        stream.decisions.iter().map(|decision| (decision.place, decision.identity)).collect();
    let counts = |record: &&Record| match at.get(&record.place) {
        None => !is_within(record.place, &stream.acceptance),
        Some(Verdict::Accepted | Verdict::Quarantined) => true,
        Some(Verdict::Repeat) => {
            identity.get(&record.place).is_some_and(|identity| repeats.contains(identity))
        }
    };
    stream.records.iter().filter(counts).map(|record| record.event_id).collect()
}

/// Per producer and key, events first stand in Bronze in the order in which they were sent.
fn check_order(report: &mut Report, stream: &StreamFacts, sent: &[&Sent]) {
    let name = format!("bronze.{}", stream.name);
    let mut turned = Collected::new(Kind::Reordered, &name, "events before one sent earlier");
    let mut first: HashMap<Fingerprint, Place> = HashMap::with_capacity(stream.records.len());
    for record in &stream.records {
        let place = first.entry(record.event_id).or_insert(record.place);
        *place = record.place.min(*place);
    }
    let mut last: HashMap<(Fingerprint, u32), Place> = HashMap::new();
    for event in sent {
        let Some(order) = event.order else { continue };
        let Some(place) = first.get(&fingerprint(event.event_id.as_bytes())) else { continue };
        let before = last.entry((order, place.partition)).or_insert(*place);
        if *place < *before {
            turned.add(|| format!("{} at {place}", event.event_id));
        }
        *before = (*place).max(*before);
    }
    report.close([turned]);
}

fn check_streams_sent_to(report: &mut Report, sent: &[Sent], facts: &Facts) {
    let read = facts.streams.iter().map(|stream| &stream.name);
    let known: BTreeSet<&str> =
        read.chain(facts.unread_streams.iter().map(|(stream, _)| stream)).map(|s| &**s).collect();
    let mut lost: BTreeMap<&str, Collected> = BTreeMap::new();
    for event in sent.iter().filter(|event| event.outcome == Outcome::Acked) {
        if !known.contains(event.stream.as_str()) {
            let what = "acked events of a stream that is not there";
            let entry = lost
                .entry(&event.stream)
                .or_insert_with(|| Collected::new(Kind::Lost, &event.stream, what));
            entry.add(|| event.event_id.clone());
        }
    }
    report.close(lost.into_values());
}

/// Versions follow each other, and no position goes back.
fn check_log(report: &mut Report, table: &TableFacts) {
    report.looked_at.tables += 1;
    report.looked_at.versions += table.versions.len() as u64;
    let name = table.name.to_string();
    let mut holes = Collected::new(Kind::Version, &name, "versions that are missing");
    let mut back = Collected::new(Kind::Position, &name, "positions that went back");
    for pair in table.versions.windows(2) {
        for version in pair[0].version + 1..pair[1].version {
            holes.add(|| version.to_string());
        }
    }
    let mut ahead = Collected::new(Kind::Position, &name, "inputs that do not reach so far");
    for read in &table.reads {
        if read.newest.is_none_or(|newest| newest < read.at) {
            ahead.add(|| format!("{} at {}", read.input, read.at));
        }
    }
    let mut at: BTreeMap<&str, i64> = BTreeMap::new();
    for version in &table.versions {
        for (app_id, to) in &version.positions {
            let before = at.insert(app_id, *to);
            if before.is_some_and(|before| before > *to) && follows_an_order(app_id) {
                back.add(|| format!("{app_id} at version {}", version.version));
            }
        }
    }
    report.close([holes, back, ahead]);
}

/// Whether the values under an app id only grow; that of a seed's digest does not.
fn follows_an_order(app_id: &str) -> bool {
    app_id != "in/seed"
}

/// Every file of every version is there, with the rows that the log says.
fn check_files(report: &mut Report, table: &TableFacts) {
    report.looked_at.files += table.files.len() as u64;
    let name = table.name.to_string();
    let mut unread = Collected::new(Kind::File, &name, "data files that cannot be read");
    let mut wrong = Collected::new(Kind::File, &name, "data files with another number of rows");
    let mut again = Collected::new(Kind::Duplicated, &name, "data files that are added again");
    for file in &table.files {
        let version = file.version;
        match (&file.found, file.claimed) {
            (Err(reason), _) => {
                unread.add(|| format!("{} of version {version} ({reason})", file.path))
            }
            (Ok(found), Some(claimed)) if *found != claimed => {
                wrong.add(|| format!("{} of version {version}: {found}, not {claimed}", file.path));
            }
            _ => {}
        }
    }
    let mut active: BTreeSet<&str> = BTreeSet::new();
    for version in &table.versions {
        for path in &version.removed {
            active.remove(path.as_str());
        }
        for path in &version.added {
            if !active.insert(path) {
                again.add(|| format!("{path} by version {}", version.version));
            }
        }
    }
    report.close([unread, wrong, again]);
}

/// The table is what its SQL gives over its inputs at the recorded positions.
fn check_content(report: &mut Report, table: &TableFacts) {
    let name = table.name.to_string();
    match &table.content {
        Content::Given => {}
        Content::NotCompared(reason) => report.not_compared.push(format!("{name}: {reason}")),
        Content::Compared(difference) => {
            report.looked_at.rows_compared += difference.rows;
            let mut differs = Collected::new(Kind::Content, &name, "rows differ from its SQL");
            for sample in &difference.samples {
                differs.add(|| sample.clone());
            }
            for _ in difference.samples.len() as u64..difference.missing + difference.surplus {
                differs.add(String::new);
            }
            report.close([differs]);
        }
    }
}
