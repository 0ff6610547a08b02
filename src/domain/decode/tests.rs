use super::*;
use crate::domain::contract::{EventId, OnError, Range, Topic, Validation};

fn field(name: &str, data_type: FieldType) -> Field {
    Field {
        name: name.into(),
        data_type,
        required: true,
        source: None,
        format: None,
        rule: None,
        accepted_values: Vec::new(),
        accepted_rule: None,
        range: None,
        description: String::new(),
    }
}

fn contract() -> Contract {
    let mut device = field("device", FieldType::Text);
    device.accepted_values = vec!["web".into(), "mobile".into()];
    let mut position = field("position", FieldType::Int);
    position.range = Some(Range { name: "position_range".into(), min: Some(1.0), max: Some(20.0) });
    let mut amount = field("amount", FieldType::Decimal(18, 2));
    amount.required = false;
    Contract {
        name: "clicks".into(),
        description: String::new(),
        fields: vec![device, position, amount, field("at", FieldType::Timestamp)],
        key: Vec::new(),
        event_id: EventId::Content,
        deletes: None,
        takes_arrays: false,
        event_time: None,
        rules: Vec::new(),
        on_error: OnError::Quarantine,
        validation: Validation::Schema,
        partitions: 1,
        topic: Topic::default(),
        version: String::new(),
    }
}

fn decode(payload: &str) -> Decoded<'_> {
    Decoder::new(&contract()).decode(payload.as_bytes())
}

fn rules(payload: &str) -> Vec<String> {
    decode(payload).breaches.into_iter().map(|breach| breach.rule).collect()
}

const GOOD: &str =
    r#"{"device":"web","position":7.0,"amount":"1.005","at":"2026-03-02 18:00:19.456","x":[1]}"#;

#[test]
fn values_take_the_declared_type() {
    let decoded = decode(GOOD);
    assert_eq!(decoded.breaches, []);
    assert_eq!(
        decoded.values[..3],
        [Value::Text("web".into()), Value::Int(7), Value::Decimal(101)]
    );
    assert_eq!(decoded.rescued.as_deref(), Some(r#"{"x":[1]}"#));
}

#[test]
fn a_field_is_read_from_its_member_in_its_format() {
    let mut contract = contract();
    contract.fields[0].source = Some("Device (kind)".into());
    contract.fields[3].source = Some("order date (DateOrders)".into());
    contract.fields[3].format = Some("%m/%d/%Y %H:%M".into());
    let mut day = field("day", FieldType::Date);
    day.format = Some("%d.%m.%y".into());
    contract.fields.push(day);
    let decoder = Decoder::new(&contract);
    let payload = r#"{"Device (kind)":" web ","device":"fax","position":1,
        "order date (DateOrders)":"1/3/2015  14:05","day":"31.1.26"}"#;
    let decoded = decoder.decode(payload.as_bytes());
    assert_eq!(decoded.breaches, []);
    let at = parse_timestamp("2015-01-03 14:05:00").map(Value::Timestamp);
    let day = parse_date("2026-01-31").map(Value::Date);
    assert_eq!(decoded.values[0], Value::Text("web".into()));
    assert_eq!((Some(&decoded.values[3]), Some(&decoded.values[4])), (at.as_ref(), day.as_ref()));
    assert_eq!(decoder.column_text("device", &decoded).as_deref(), Some("web"));
    // The member that has the field's name is another.
    assert_eq!(decoded.rescued.as_deref(), Some(r#"{"device":"fax"}"#));
    // One instant, one content.
    let padded = payload.replace("1/3/2015  14:05", "01/03/2015 14:05");
    assert_eq!(decoder.decode(padded.as_bytes()).content, decoded.content);
    let unread = ["2015-01-03 14:05:00", "1/3/15 14:05", "1/3/9999 14:05"].map(|t| (t, "type:at"));
    for (text, rule) in unread.into_iter().chain([("", "not_null:at")]) {
        let payload = payload.replace("1/3/2015  14:05", text);
        let breaches = decoder.decode(payload.as_bytes()).breaches;
        assert_eq!(breaches.into_iter().map(|b| b.rule).collect::<Vec<_>>(), [rule]);
    }
}

#[test]
fn a_format_names_a_whole_time() {
    for (data_type, format, wrong) in [
        (FieldType::Timestamp, "%m/%d/%Y %H:%M", None),
        (FieldType::Timestamp, "%Y-%m-%dT%H:%M:%S%.f%z", None),
        (FieldType::Timestamp, "%s", None),
        (FieldType::Date, "%d.%m.%y", None),
        (FieldType::Date, "%H:%M", Some("does not name a whole date or time")),
        (FieldType::Timestamp, "%Y-%m-%d", Some("does not name a whole date or time")),
        (FieldType::Timestamp, "%Y-%Q", Some("holds what strftime does not know")),
    ] {
        assert_eq!(check_format(data_type, format).err(), wrong, "{format}");
    }
}

#[test]
fn every_broken_rule_is_named() {
    assert_eq!(
        rules(r#"{"device":"fax","position":21,"at":"yesterday"}"#),
        ["accepted_values:device", "position_range", "type:at"]
    );
    assert_eq!(
        rules(r#"{"device":"  ","position":7.5,"at":null}"#),
        ["not_null:device", "type:position", "not_null:at"]
    );
}

#[test]
fn checks_of_a_field_may_have_a_name_of_their_own() {
    let mut contract = contract();
    for field in &mut contract.fields {
        field.rule = Some("R1".into());
    }
    contract.fields[0].accepted_rule = Some("R2".into());
    let told = |payload: &str| {
        let decoded = Decoder::new(&contract).decode(payload.as_bytes());
        let told = decoded.breaches.into_iter().map(|b| format!("{}: {}", b.rule, b.message));
        told.collect::<Vec<_>>()
    };
    let found = told(r#"{"device":"fax","position":"two","at":null}"#);
    assert_eq!(
        found,
        [
            "R2: device: \"fax\" is not one of web, mobile",
            "R1: position: \"two\" is not of type int",
            "R1: at: required, but missing, null or empty",
        ]
    );
    // A range has its own already.
    assert_eq!(told(&GOOD.replace("7.0", "21")), ["position_range: 21 is outside 1…20"]);
}

#[test]
fn a_number_out_of_range_is_told_which_end_it_is_beyond() {
    let mut contract = contract();
    let mut told = |min, max| {
        contract.fields[1].range = Some(Range { name: "small".into(), min, max });
        let decoded = Decoder::new(&contract).decode(GOOD.as_bytes());
        decoded.breaches.into_iter().map(|breach| breach.message).collect::<Vec<_>>()
    };
    assert_eq!(told(Some(8.0), None), ["7 is below 8"]);
    assert_eq!(told(None, Some(6.5)), ["7 is above 6.5"]);
    assert_eq!(told(Some(7.0), Some(7.0)), [""; 0]);
}

#[test]
fn an_id_of_several_columns_tells_their_values_apart() {
    let mut contract = contract();
    contract.fields.push(field("place", FieldType::Text));
    contract.event_id = EventId::Columns(vec!["device".into(), "place".into()]);
    contract.fields[0].accepted_values.clear();
    let decoder = Decoder::new(&contract);
    let id = |device: &str, place: &str| {
        let payload = serde_json::json!({ "device": device, "place": place }).to_string();
        decoder.given_id(&decoder.decode(payload.as_bytes()))
    };
    assert_eq!(id("web", "home").as_deref(), Some("web|home"));
    assert_eq!(id(" web", "home "), id("web", "home"));
    assert_eq!(id("a|b", "c").as_deref(), Some(r"a\|b|c"));
    let ids = [id("a|b", "c"), id("a", "b|c"), id(r"a\", "b|c"), id(r"a\|b", "c"), id("a", "b")];
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "{ids:?}");
    assert_eq!(id("web", ""), None);
}

#[test]
fn what_is_no_single_object_is_malformed() {
    for payload in ["", "[]", "{}{}", "{\"a\":NaN}", "nul", "{\"a\":1", "\u{0}"] {
        assert_eq!(rules(payload), [MALFORMED], "{payload}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(rules(&deep), [MALFORMED]);
}

#[test]
fn content_does_not_depend_on_how_it_is_written() {
    let content = |payload: &str| decode(payload).content;
    let csv = r#"{"at":" 2026-03-02 18:00:19.456","amount":"1.0050","position":"7","x":[ 1 ],
        "device":"web ","empty":""}"#;
    assert_eq!(content(GOOD), content(csv));
    assert_ne!(content(GOOD), content(&GOOD.replace("7.0", "8")));
}

#[test]
fn decimals_are_rounded_from_their_text() {
    for (text, cents) in
        [("1.005", 101), ("-1.005", -101), ("1e2", 10_000), (".5", 50), ("0.994999", 99)]
    {
        assert_eq!(parse_decimal(text, 18, 2), Some(cents), "{text}");
    }
    assert_eq!(parse_decimal("1e17", 18, 2), None);
    assert_eq!(parse_decimal("1e999999999999", 18, 2), None);
    assert_eq!(parse_decimal("abc", 18, 2), None);
}

#[test]
fn numbers_have_one_canonical_form() {
    for (text, canonical) in
        [("105.0", "105"), ("+0105", "105"), ("1.05E2", "105"), ("-0.0", "0"), ("5e-1", "0.5")]
    {
        assert_eq!(content::canonical_number(text).as_deref(), Some(canonical), "{text}");
    }
}

#[test]
fn accepted_values_are_compared_as_values() {
    let mut contract = contract();
    contract.fields[3].accepted_values = vec!["2026-03-02T18:00:19.456Z".into()];
    let broken = |payload: &str| {
        let decoded = Decoder::new(&contract).decode(payload.as_bytes());
        decoded.breaches.into_iter().map(|breach| breach.rule).collect::<Vec<_>>()
    };
    assert_eq!(broken(GOOD), [""; 0]);
    assert_eq!(broken(&GOOD.replace("19.456", "20")), ["accepted_values:at"]);
}

#[test]
fn one_instant_is_one_content_however_it_is_written() {
    let zulu = GOOD.replace("2026-03-02 18:00:19.456", "2026-03-02T19:00:19.456000+01:00");
    assert_eq!(decode(GOOD).content, decode(&zulu).content);
    assert_ne!(decode(GOOD).content, decode(&GOOD.replace("19.456", "19.457")).content);
}

#[test]
fn many_members_are_read_in_linear_time_and_bounded() {
    let member = |i: usize| format!("\"f{i}\":{i}");
    let wide = |n: usize| (0..n).map(member).collect::<Vec<_>>().join(",");
    let good = format!("{},{}}}", GOOD.trim_end_matches('}'), wide(9_000));
    assert_eq!(rules(&good), [""; 0]);
    assert_eq!(rules(&format!("{{{}}}", wide(10_001))), [MALFORMED]);
    // Of a repeated name the last member counts, also among many.
    let twice = format!("{{\"position\":99,{},{}", wide(100), &GOOD[1..]);
    assert_eq!(rules(&twice), [""; 0]);
}

#[test]
fn half_a_character_is_no_text() {
    assert_eq!(rules(&GOOD.replace("\"web\"", "\"\\ud800\"")), ["type:device"]);
}

#[test]
fn blanks_in_text_are_single_spaces() {
    let untouched = ["a", "a b", "a b c", "\u{e4} b", "a-b_c"];
    for text in untouched {
        assert!(matches!(clean_text(text), Some(Cow::Borrowed(same)) if same == text), "{text:?}");
    }
    let blanks = ["  ", "\t", "\n", "\r\n", "\u{b}", "\u{c}", "\u{a0}", " \u{2003} "];
    for blank in blanks {
        for (before, after) in [("a", "b"), ("\u{e4}", "b")] {
            let text = format!("{blank}{before}{blank}{after}{blank}");
            assert_eq!(
                clean_text(&text).as_deref(),
                Some(&*format!("{before} {after}")),
                "{text:?}"
            );
        }
    }
    for nothing in ["", " ", "\t\n", "NaN", " NaN "] {
        assert_eq!(clean_text(nothing), None, "{nothing:?}");
    }
}

/// Orders whose field `op` says what became of them.
fn changes(key: &[&str]) -> Contract {
    let mut version = field("version", FieldType::Int);
    version.source = Some("lsn".into());
    Contract {
        fields: vec![
            field("device", FieldType::Text),
            version,
            Field { required: false, ..field("op", FieldType::Text) },
            field("amount", FieldType::Decimal(18, 2)),
        ],
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        deletes: Some(crate::domain::contract::Deletes {
            field: "op".into(),
            values: vec!["d".into(), "drop".into()],
            tombstones: true,
        }),
        ..contract()
    }
}

#[test]
fn of_a_delete_only_what_names_the_row_is_judged() {
    let told = |contract: &Contract, payload: &str| {
        let decoded = Decoder::new(contract).decode(payload.as_bytes());
        let rules = decoded.breaches.into_iter().map(|breach| breach.rule);
        (decoded.is_delete, rules.collect::<Vec<_>>().join(","))
    };
    let mut contract = changes(&["device"]);
    let deleted = r#"{"device":"web","op":" d ","amount":"much"}"#;
    assert_eq!(told(&contract, deleted), (true, String::new()));
    assert_eq!(told(&contract, r#"{"op":"drop"}"#), (true, "not_null:device".into()));
    let kept = (false, "not_null:version,type:amount".to_owned());
    assert_eq!(told(&contract, &deleted.replace(" d ", "D")), kept);
    assert_eq!(told(&contract, &deleted.replace(r#","op":" d ""#, "")), kept);
    contract.event_id = EventId::Columns(vec!["device".into(), "version".into()]);
    assert_eq!(told(&contract, deleted), (true, "not_null:version".into()));
    contract.deletes = None;
    assert_eq!(told(&contract, deleted), kept);
}

#[test]
fn a_record_without_a_value_deletes_the_row_of_its_key() {
    let told = |contract: &Contract, key: Option<&[u8]>| {
        let decoded = Decoder::new(contract).no_value(key);
        assert_eq!((decoded.rescued, decoded.content), (None, None));
        let broken = decoded.breaches.first().map(|b| format!("{}: {}", b.rule, b.message));
        (decoded.is_delete, decoded.values, broken)
    };
    let text = |text: &'static str| Value::Text(text.into());
    let deleted = |device, version| vec![device, version, text("d"), Value::Null];
    let one = changes(&["device"]);
    for key in ["web", " web ", "\"web\"", r#"{"device":"web","lsn":3}"#] {
        let wanted = (true, deleted(text("web"), Value::Null), None);
        assert_eq!(told(&one, Some(key.as_bytes())), wanted, "{key}");
    }
    let two = changes(&["device", "version"]);
    for key in ["web|7", r#"{"lsn":"7","device":"web"}"#] {
        let wanted = (true, deleted(text("web"), Value::Int(7)), None);
        assert_eq!(told(&two, Some(key.as_bytes())), wanted, "{key}");
    }
    let broken = |contract: &Contract, key: Option<&[u8]>| told(contract, key).2;
    let cases: [(&Contract, Option<&[u8]>, &str); 8] = [
        (&one, None, "malformed: the record has neither a value nor a key"),
        (&one, Some(b"\xff"), "malformed: a tombstone's key is not UTF-8"),
        (&one, Some(b" "), "not_null:device: required, but missing, null or empty"),
        (&one, Some(b"{}"), "not_null:device: required, but missing, null or empty"),
        (&one, Some(b"{\"device\""), "malformed: a tombstone's key is not one JSON object: "),
        (&two, Some(b"web"), "malformed: a tombstone's key is not of device, version"),
        (&two, Some(b"web|x"), "type:version: \"x\" is not of type int"),
        (&contract(), Some(b"web"), "malformed: the record has no value (null)"),
    ];
    for (contract, key, message) in cases {
        let found = broken(contract, key).unwrap_or_default();
        assert!(found.starts_with(message), "{found}");
    }
}
