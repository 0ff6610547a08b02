//! Events against their contract: keys, identities, what is refused and what is marked.

use bytes::Bytes;

use super::support::{batch_of, contract, event};
use crate::{
    domain::{
        contract::{Contract, EventId, OnError, Validation},
        identity::Identity,
    },
    ingest::{
        judge::{Judged, Origin, judge},
        proto::{RecordBatch, event_error::Reason},
    },
};

const MAX_EVENT: usize = 1_000;

fn producer() -> Origin {
    Origin::Producer { producer: "p".into(), epoch: 3, sequence: 9 }
}

fn judged(contract: &Contract, batch: RecordBatch) -> Judged {
    judge(contract, MAX_EVENT, &producer(), batch).expect("batch")
}

fn identities(judged: &Judged) -> Vec<String> {
    judged.records.iter().map(|record| record.identity.to_string()).collect()
}

#[test]
fn identities_come_from_the_first_source_there_is() {
    let records = [r#"{"user_id":1,"id":" a "}"#, r#"{"user_id":2}"#];
    let mut batch = batch_of(&records);
    let mut contract = contract("clicks");
    assert_eq!(
        identities(&judged(&contract, batch.clone())),
        ["producer:p/3/9/0", "producer:p/3/9/1"]
    );

    batch.event_ids = vec![Bytes::from_static(b"x-1"), Bytes::new()];
    assert_eq!(identities(&judged(&contract, batch.clone())), ["x-1", "producer:p/3/9/1"]);

    contract.event_id = EventId::Columns(vec!["id".into()]);
    let by_column = judged(&contract, batch.clone());
    assert_eq!(by_column.records[0].identity, Identity::Given("a".into()));
    assert!(matches!(by_column.records[1].identity, Identity::Content(_)));

    contract.event_id = EventId::Content;
    let other_spelling = batch_of(&[r#"{ "id":"a", "user_id":"1.0" }"#]);
    let by_content = judged(&contract, batch);
    assert_eq!(
        by_content.records[0].identity,
        judged(&contract, other_spelling).records[0].identity
    );
    assert_ne!(by_content.records[0].identity, by_content.records[1].identity);
}

#[test]
fn the_identity_of_an_event_does_not_depend_on_the_validation() {
    let records = [r#"{"user_id":"x","id":"a"}"#, "{", r#"{"user_id":7.5}"#];
    for event_id in [EventId::Columns(vec!["id".into()]), EventId::Content] {
        let mut contract = contract("clicks");
        contract.event_id = event_id;
        let expected = identities(&judged(&contract, batch_of(&records)));
        for validation in [Validation::None, Validation::Wire] {
            contract.validation = validation;
            assert_eq!(identities(&judged(&contract, batch_of(&records))), expected);
        }
    }
}

#[test]
fn ids_in_number_columns_have_one_form() {
    let mut contract = contract("clicks");
    contract.event_id = EventId::Columns(vec!["amount".into()]);
    let records = [
        r#"{"user_id":1,"amount":"07.50"}"#,
        r#"{"user_id":1,"amount":7.5}"#,
        r#"{"user_id":1,"amount":-3}"#,
    ];
    assert_eq!(identities(&judged(&contract, batch_of(&records))), ["7.5", "7.5", "-3"]);
}

#[test]
fn keys_are_given_or_come_from_the_contract() {
    let keys = |judged: Judged| -> Vec<Option<String>> {
        let text = |key: Bytes| String::from_utf8_lossy(&key).into_owned();
        judged.records.into_iter().map(|record| record.key.map(text)).collect()
    };
    let mut contract = contract("clicks");
    let mut batch = batch_of(&[event(1), event(2)]);
    assert_eq!(keys(judged(&contract, batch.clone())), [None, None]);
    contract.key = vec!["user_id".into()];
    assert_eq!(keys(judged(&contract, batch.clone())), [Some("1".into()), Some("2".into())]);
    contract.key = vec!["device".into(), "user_id".into()];
    assert_eq!(
        keys(judged(&contract, batch.clone())),
        [Some("web|1".into()), Some("web|2".into())]
    );
    contract.key = vec!["user_id".into()];
    batch.keys = vec![Bytes::from_static(b"all")];
    assert_eq!(keys(judged(&contract, batch.clone())), [Some("all".into()), Some("all".into())]);
    batch.keys = vec![Bytes::from_static(b"a"), Bytes::new()];
    assert_eq!(keys(judged(&contract, batch)), [Some("a".into()), Some("2".into())]);
}

#[test]
fn every_event_of_an_array_is_judged_and_the_record_kept_or_refused_whole() {
    let mut contract = contract("clicks");
    contract.event_id = EventId::Columns(vec!["id".into()]);
    contract.key = vec!["user_id".into()];
    let records = [
        r#"[{"user_id":1,"id":"a"},{"user_id":1,"id":"b","device":"tv"},7]"#,
        r#"[{"user_id":1,"id":"a"},{"user_id":2,"id":"b"}]"#,
        r#"[{"user_id":1,"id":"a"}]"#,
        r#"{"user_id":1,"id":"a"}"#,
        "[]",
        "[{",
    ];
    let plain = judged(&contract, batch_of(&records));
    assert_eq!((plain.records.len(), plain.quarantined), (6, 5));
    contract.takes_arrays = true;
    let found = judged(&contract, batch_of(&records));
    assert_eq!((found.records.len(), found.quarantined, found.refused), (6, 2, 0));
    let errors: Vec<_> = found.errors.iter().map(|e| (e.index, e.field.as_str())).collect();
    assert_eq!(errors, [(0, "device"), (0, ""), (5, "")]);
    assert_eq!(found.errors[0].message, "event 1 of the record: \"tv\" is not one of web, mobile");
    assert_eq!(found.errors[2].message, "not a JSON array of events: it does not end");
    let keys: Vec<_> = found.records.iter().map(|r| r.key.as_deref()).collect();
    // That of all events, where they have one.
    assert_eq!(keys, [None, None, Some(&b"1"[..]), Some(b"1"), None, None]);
    let named: Vec<_> = found.records.iter().map(|r| r.identity.to_string()).collect();
    assert_eq!(named[2..4], ["a", "a"]);
    assert!(named[..2].iter().all(|name| name.starts_with("content:")), "{named:?}");

    contract.event_id = EventId::Client;
    let by_client = identities(&judged(&contract, batch_of(&records)));
    assert_eq!(by_client[..2], ["producer:p/3/9/0", "producer:p/3/9/1"]);

    contract.on_error = OnError::RejectBatch;
    let found = judged(&contract, batch_of(&records));
    assert!(found.is_refused_whole && found.refused == 2, "{found:?}");
}

#[test]
fn arrays_of_another_length_are_refused_by_name() {
    let contract = contract("clicks");
    let three = [event(1), event(2), event(3)];
    for (keys, ids, field, message) in [
        (2, 0, "keys", "2 entries for 3 records: give none, one for all, or one each"),
        (0, 1, "event_ids", "1 entries for 3 records: give none or one each"),
    ] {
        let mut batch = batch_of(&three);
        batch.keys = vec![Bytes::from_static(b"k"); keys];
        batch.event_ids = vec![Bytes::from_static(b"i"); ids];
        let bad = judge(&contract, MAX_EVENT, &producer(), batch).expect_err("bad");
        assert_eq!((bad.field, bad.message.as_str()), (field, message));
    }
}

#[test]
fn a_call_that_identifies_nothing_is_told_the_options() {
    let origin = Origin::Request { idempotency_key: String::new() };
    let mut contract = contract("clicks");
    let batch = batch_of(&[event(1), event(2)]);
    let bad = judge(&contract, MAX_EVENT, &origin, batch.clone()).expect_err("bad");
    assert_eq!(bad.field, "idempotency_key");
    for option in ["`idempotency_key`", "`event_ids`", "`event_id` in the contract of \"clicks\""] {
        assert!(bad.message.contains(option), "{}", bad.message);
    }

    let mut with_ids = batch.clone();
    with_ids.event_ids = vec![Bytes::from_static(b"a"), Bytes::new()];
    let found = judge(&contract, MAX_EVENT, &origin, with_ids).expect("batch");
    assert_eq!(identities(&found), ["a"]);
    assert_eq!((found.refused, found.errors[0].index), (1, 1));
    assert_eq!(found.errors[0].reason(), Reason::NoIdentity);

    contract.event_id = EventId::Content;
    assert_eq!(judge(&contract, MAX_EVENT, &origin, batch).expect("batch").records.len(), 2);
}

#[test]
fn breaches_are_treated_as_the_contract_says() {
    let mut contract = contract("clicks");
    let batch = batch_of(&[event(1), r#"{"device":"fax"}"#.into(), event(3)]);
    for (on_error, records, quarantined, refused, whole) in [
        (OnError::Quarantine, 3, 1, 0, false),
        (OnError::RejectEvent, 2, 0, 1, false),
        (OnError::RejectBatch, 2, 0, 1, true),
    ] {
        contract.on_error = on_error;
        let found = judged(&contract, batch.clone());
        assert_eq!((found.records.len(), found.quarantined), (records, quarantined));
        assert_eq!((found.refused, found.is_refused_whole), (refused, whole));
        let rules: Vec<_> = found.errors.iter().map(|e| (e.index, e.rule.as_str())).collect();
        assert_eq!(rules, [(1, "not_null:user_id"), (1, "accepted_values:device")]);
        let error = &found.errors[0];
        assert_eq!((error.reason(), error.field.as_str()), (Reason::MissingField, "user_id"));
        assert_eq!(error.message, "required, but missing, null or empty");
        assert!(found.errors.iter().all(|e| e.quarantined == (quarantined == 1)));
    }
}

#[test]
fn the_level_of_validation_decides_what_counts() {
    let mut contract = contract("clicks");
    contract.on_error = OnError::RejectEvent;
    let batch = batch_of(&["{", r#"{"device":"fax"}"#]);
    for (validation, refused) in
        [(Validation::None, 0), (Validation::Wire, 1), (Validation::Schema, 2)]
    {
        contract.validation = validation;
        assert_eq!(judged(&contract, batch.clone()).refused, refused, "{validation:?}");
    }
}

#[test]
fn an_event_over_the_limit_is_refused_whatever_the_policy() {
    let big = format!(r#"{{"user_id":1,"id":"{}"}}"#, "x".repeat(MAX_EVENT));
    for on_error in [OnError::Quarantine, OnError::RejectEvent, OnError::RejectBatch] {
        let mut contract = contract("clicks");
        contract.on_error = on_error;
        let found = judged(&contract, batch_of(&[event(1), big.clone()]));
        assert_eq!((found.records.len(), found.refused), (1, 1));
        assert_eq!(found.errors[0].reason(), Reason::EventTooLarge);
        assert_eq!(
            found.errors[0].message,
            format!("{} bytes of payload and key are over the limit of {MAX_EVENT}", big.len())
        );
        assert!(!found.errors[0].quarantined);
    }
    let mut with_key = batch_of(&[event(1)]);
    with_key.keys = vec![Bytes::from(vec![b'k'; MAX_EVENT])];
    assert_eq!(judged(&contract("clicks"), with_key).refused, 1);
}

#[test]
fn a_hundred_errors_are_listed_the_others_counted() {
    let found = judged(&contract("clicks"), batch_of(&vec!["{}"; 250]));
    assert_eq!((found.errors.len(), found.errors_cut, found.quarantined), (100, 150, 250));
    let long = format!(r#"{{"user_id":1,"device":"{}"}}"#, "ä".repeat(400));
    let found = judged(&contract("clicks"), batch_of(&[long]));
    assert_eq!(found.errors[0].message.chars().count(), 301);
}

#[test]
fn no_payload_panics() {
    let deep = "[".repeat(990);
    let shapes: [&[u8]; 13] = [
        b"",
        b"null",
        b"[]",
        b"42",
        b"\"text\"",
        b"{",
        b"{}{}",
        b"{\"user_id\":NaN}",
        b"{\"user_id\":1e999}",
        b"{\"user_id\":{\"a\":[]}}",
        b"{\"user_id\":\"\\ud800\"}",
        b"\xff\xfe{\"user_id\":1}",
        deep.as_bytes(),
    ];
    for event_id in [EventId::Client, EventId::Content, EventId::Columns(vec!["id".into()])] {
        for on_error in [OnError::Quarantine, OnError::RejectEvent, OnError::RejectBatch] {
            let mut contract = contract("clicks");
            contract.event_id = event_id.clone();
            contract.on_error = on_error;
            contract.key = vec!["device".into()];
            let found = judged(&contract, batch_of(&shapes));
            let broken = found.quarantined + found.refused;
            assert_eq!(broken, 13, "{:?}", found.errors);
        }
    }
}
