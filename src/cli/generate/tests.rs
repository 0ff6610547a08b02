use std::collections::{HashMap, HashSet};

use super::*;
use crate::{
    cli::push::fake::{Fake, Fault},
    domain::{
        contract::{Contract, EventId, Field, FieldType, OnError, Range, Topic, Validation},
        decode::{Decoder, Value},
    },
};

const START: i64 = 1_772_474_400_000_000; // 2026-03-02 18:00:00

fn config(seed: u64) -> Config {
    Config { seed, users: 15, rate: 1.0, start_micros: START, films: (1..=1000).collect() }
}

fn clicks(seed: u64, count: usize) -> Vec<Click> {
    Clicks::new(config(seed)).expect("clicks").take(count).collect()
}

fn field(name: &str, data_type: FieldType, accepted: &[&str]) -> Field {
    Field {
        name: name.into(),
        data_type,
        required: true,
        source: None,
        format: None,
        rule: None,
        accepted_values: accepted.iter().map(|value| (*value).to_owned()).collect(),
        accepted_rule: None,
        range: (name == "position").then(|| Range {
            name: "position_range".into(),
            min: Some(1.0),
            max: Some(20.0),
        }),
        description: String::new(),
    }
}

/// The contract of `dvd_clicks`.
fn contract() -> Contract {
    use FieldType::{Int, Text, Timestamp};
    Contract {
        name: "dvd_clicks".into(),
        description: String::new(),
        fields: vec![
            field("event_id", Text, &[]),
            field("event_ts", Timestamp, &[]),
            field("user_id", Text, &[]),
            field("session_id", Text, &[]),
            field("film_id", Int, &[]),
            field(
                "event_type",
                Text,
                &["view", "detail_view", "watch_trailer", "add_to_watchlist"],
            ),
            field("page", Text, &["browse", "film_detail"]),
            field("position", Int, &[]),
            field("device", Text, &["web", "mobile", "tablet"]),
            field("referrer", Text, &["homepage", "search", "recommendation"]),
        ],
        key: vec!["user_id".into()],
        event_id: EventId::Columns(vec!["event_id".into()]),
        deletes: None,
        takes_arrays: false,
        event_time: Some("event_ts".into()),
        rules: Vec::new(),
        on_error: OnError::Quarantine,
        validation: Validation::Schema,
        partitions: 3,
        topic: Topic::default(),
        version: String::new(),
    }
}

fn text<'a>(value: &'a Value<'_>) -> &'a str {
    match value {
        Value::Text(text) => text,
        other => panic!("not text: {other:?}"),
    }
}

fn number(value: &Value<'_>) -> i64 {
    match value {
        Value::Int(n) | Value::Timestamp(n) => *n,
        other => panic!("not a number: {other:?}"),
    }
}

fn decoded(clicks: &[Click]) -> Vec<Vec<Value<'static>>> {
    let contract = contract();
    let decoder = Decoder::new(&contract);
    let decode = |click: &Click| {
        let decoded = decoder.decode(click.json.as_bytes());
        assert_eq!((decoded.breaches, decoded.rescued), (vec![], None), "{}", click.json);
        decoded.values.into_iter().map(Value::into_owned).collect()
    };
    clicks.iter().map(decode).collect()
}

#[test]
fn the_same_seed_gives_the_same_events() {
    assert_eq!(clicks(7, 500), clicks(7, 500));
    assert_ne!(clicks(7, 1), clicks(8, 1));
}

#[test]
fn every_click_keeps_the_contract() {
    let rows = decoded(&clicks(1, 5_000));
    let mut ids = HashSet::new();
    for row in &rows {
        let id = uuid::Uuid::parse_str(text(&row[0])).expect("a uuid");
        assert_eq!(id.get_version_num(), 4);
        assert!(ids.insert(id), "{id} twice");
        let user: u32 = text(&row[2]).strip_prefix("u_").expect("u_").parse().expect("user");
        assert!((1..=15).contains(&user));
        let session = text(&row[3]).strip_prefix("s_").expect("s_");
        assert!(session.len() == 8 && session.bytes().all(|b| b.is_ascii_hexdigit()));
        assert!((1..=1000).contains(&number(&row[4])));
        assert_eq!(text(&row[6]) == "browse", text(&row[5]) == "view");
        assert!((1..=20).contains(&number(&row[7])));
    }
}

#[test]
fn event_time_is_written_as_the_contract_shows_it() {
    let click = &clicks(1, 1)[0];
    let ms = click.delay.as_millis();
    assert!((500..1500).contains(&ms), "{ms}");
    let expected = match ms {
        ms if ms < 1000 => format!("\"event_ts\":\"2026-03-02 18:00:00.{ms:03}\""),
        ms => format!("\"event_ts\":\"2026-03-02 18:00:01.{:03}\"", ms - 1000),
    };
    assert!(click.json.contains(&expected), "{}", click.json);
}

#[test]
fn the_rate_scales_the_pauses() {
    let config = Config { rate: 100.0, ..config(1) };
    let total: Duration = Clicks::new(config).expect("clicks").take(10_000).map(|c| c.delay).sum();
    assert!((98.0..102.0).contains(&total.as_secs_f64()), "{total:?}");
}

#[test]
fn a_session_lasts_until_its_user_was_idle_for_more_than_ten_minutes() {
    let rows = decoded(&clicks(3, 20_000));
    let mut last: HashMap<&str, (&str, i64, &str)> = HashMap::new();
    let (mut kept, mut renewed) = (0, 0);
    for row in &rows {
        let (user, session, at, device) =
            (text(&row[2]), text(&row[3]), number(&row[1]), text(&row[8]));
        if let Some((known, seen, known_device)) = last.insert(user, (session, at, device)) {
            let is_idle = at - seen > 600_000_000;
            assert_eq!(known != session, is_idle, "{user} after {} s", (at - seen) / 1_000_000);
            assert!(is_idle || device == known_device, "one device per session");
            kept += usize::from(!is_idle);
            renewed += usize::from(is_idle);
        }
    }
    assert!(kept > 10_000 && renewed > 20, "{kept} kept, {renewed} renewed");
}

#[test]
fn event_types_have_their_weights() {
    let rows = decoded(&clicks(4, 20_000));
    for (name, weight) in
        [("view", 0.35), ("detail_view", 0.30), ("watch_trailer", 0.20), ("add_to_watchlist", 0.15)]
    {
        let share = rows.iter().filter(|row| text(&row[5]) == name).count() as f64 / 20_000.0;
        assert!((share - weight).abs() < 0.015, "{name}: {share}");
    }
}

fn film_counts(rows: &[Vec<Value<'_>>]) -> HashMap<i64, usize> {
    let mut counts = HashMap::new();
    for row in rows {
        *counts.entry(number(&row[4])).or_default() += 1;
    }
    counts
}

#[test]
fn few_films_get_many_clicks_and_which_ones_changes() {
    let rows = decoded(&clicks(5, 14_400)); // four hours
    let mut counts: Vec<usize> = film_counts(&rows).into_values().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let share = |n: usize| counts[..n].iter().sum::<usize>() as f64 / 14_400.0;
    assert!(share(1) > 0.03, "the top film has {}", share(1));
    assert!(share(50) > 0.35, "the top fifty have {}", share(50));
    assert!(counts.len() > 500, "{} films are clicked at all", counts.len());

    // Between the first and another quarter of an hour some films rise and others fade.
    let quarter = |n: usize| film_counts(&rows[n * 900..(n + 1) * 900]);
    let (first, later) = (quarter(0), quarter(2));
    let of = |counts: &HashMap<i64, usize>, id: i64| counts.get(&id).copied().unwrap_or(0);
    let rising = later.iter().filter(|(id, n)| **n >= 15 && of(&first, **id) * 2 < **n).count();
    let fading = first.iter().filter(|(id, n)| **n >= 15 && of(&later, **id) * 2 < **n).count();
    assert!(rising >= 1 && fading >= 1, "{rising} rise, {fading} fade");
}

#[test]
fn without_films_there_are_no_clicks() {
    let error = |config| Clicks::new(config).map(|_| ()).expect_err("error");
    assert_eq!(error(Config { films: vec![], ..config(1) }), ClicksError::NoFilms);
    assert_eq!(error(Config { users: 0, ..config(1) }), ClicksError::NoUsers);
    assert_eq!(error(Config { rate: 0.0, ..config(1) }), ClicksError::NoRate);

    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("films.csv");
    std::fs::write(&path, "film_id,film_title\n").expect("write");
    let failure = read_films(&path).expect_err("empty");
    assert_eq!(failure.exit_code(), 2);
    assert!(failure.to_string().ends_with("there is no film in it; clicks need at least one"));
    std::fs::write(&path, "film_title,film_id\nA,133\n\"B, C\",x\n").expect("write");
    let failure = read_films(&path).expect_err("bad id");
    assert!(failure.to_string().ends_with("films.csv:3: film_id \"x\" is not an integer"));
    std::fs::write(&path, "film_title,film_id\nA,133\n\"B, C\",384\n").expect("write");
    assert_eq!(read_films(&path).expect("films"), [133, 384]);
}

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

fn args(words: &[&str]) -> Args {
    use clap::Parser as _;
    let words = ["generate", "dvd-clicks", "--quiet"].iter().chain(words);
    Command::try_parse_from(words).expect("arguments").args
}

#[tokio::test]
async fn a_file_with_a_fixed_start_is_the_same_every_time() {
    let dir = tempfile::tempdir().expect("dir");
    let mut files = Vec::new();
    for name in ["a", "b"] {
        let path = dir.path().join(name);
        let path_text = path.to_str().expect("text");
        let more = ["--count", "100", "--seed", "9", "--output", path_text];
        let start = ["--start", "2026-03-02 18:00:00"];
        let args = args(&[&more[..], &start[..]].concat());
        run(args, CancellationToken::new()).await.expect("written");
        files.push(std::fs::read_to_string(&path).expect("read"));
    }
    assert_eq!(files[0].lines().count(), 100);
    assert_eq!(files[0], files[1]);
    assert!(files[0].starts_with("{\"event_id\":\""));
}

#[tokio::test]
async fn the_duration_is_that_of_the_events() {
    let clicks = Clicks::new(config(1)).expect("clicks");
    let within: Duration =
        limited(clicks, None, Some(Duration::from_secs(60))).map(|click| click.delay).sum();
    assert!(within <= Duration::from_secs(60) && within > Duration::from_secs(58), "{within:?}");
}

#[tokio::test]
async fn an_endless_file_is_refused() {
    let failure = run(args(&["--output", "clicks.ndjson"]), CancellationToken::new())
        .await
        .expect_err("endless");
    assert_eq!(failure.exit_code(), 2);
    assert!(!Path::new("clicks.ndjson").exists());
}

#[tokio::test]
async fn clicks_are_sent_and_a_lost_connection_costs_none() {
    let fake = Fake::start("column:event_id", [(2, Fault::Cut)]).await;
    let more = ["--count", "300", "--rate", "3000", "--stream", "s", "--seed", "1"];
    let args = args(&[&more[..], &["--url", &fake.url]].concat());
    // The fake takes events of up to 100 bytes as a limit to announce, not to enforce.
    run(args, CancellationToken::new()).await.expect("sent");
    let payloads = fake.payloads();
    assert_eq!(payloads.len(), 300);
    let distinct: HashSet<_> = payloads.iter().collect();
    assert_eq!(distinct.len(), 300);
}

#[tokio::test]
async fn a_stop_ends_the_generator_without_an_error() {
    let fake = Fake::start("column:event_id", []).await;
    let args = args(&["--rate", "200", "--stream", "s", "--url", &fake.url]);
    let stop = CancellationToken::new();
    let stopper = async {
        while fake.payloads().len() < 5 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = run(args, stop.clone()) => ended.expect("stopped"),
        () = stopper => unreachable!(),
    }
    assert!(fake.payloads().len() >= 5);
}
