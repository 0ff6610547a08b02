use super::*;

const HEAD: &str = "id,at\n";

/// Rows of a CSV file: their ids, at seconds after noon.
fn csv(rows: &[(u32, &str)]) -> String {
    let row = |(id, at): &(u32, &str)| format!("{id},{at}\n");
    HEAD.chars().chain(rows.iter().map(row).collect::<String>().chars()).collect()
}

fn at(second: u32) -> String {
    format!("2024-05-25 12:{:02}:{:02}", second / 60, second % 60)
}

/// `count` rows, the last ones first.
fn backwards(count: u32) -> Place {
    let rows: Vec<(u32, String)> = (0..count).map(|n| (n, at(count - n))).collect();
    let rows: Vec<(u32, &str)> = rows.iter().map(|(n, at)| (*n, at.as_str())).collect();
    Place::with(&csv(&rows))
}

/// The ids of the rows that arrived.
fn arrived(fake: &Fake) -> Vec<u32> {
    let id = |payload: String| {
        let event: serde_json::Value = serde_json::from_str(&payload).expect("json");
        event["id"].as_str().and_then(|id| id.parse().ok()).expect("id")
    };
    fake.payloads().into_iter().map(id).collect()
}

const SORTED: [&str; 4] = ["--input-format", "csv", "--sort-by", "at"];

fn sorted<'a>(more: &[&'a str]) -> Vec<&'a str> {
    SORTED.into_iter().chain(more.iter().copied()).collect()
}

#[tokio::test]
async fn rows_arrive_in_order_and_refused_ones_are_named() {
    let rows = [
        (0, "2024-05-25 12:00:03"),
        (1, "soon"),
        (2, "2024-05-25 12:00:01.5"),
        (3, ""),
        (4, "2024-05-25 12:00:03"),
        (5, "2024-05-25 12:00:01.25"),
    ];
    let (fake, place) = (Fake::start("client", []).await, Place::with(&csv(&rows)));
    let (report, outcome) = place.push(&fake, &sorted(&["--batch-rows", "2"])).await;
    assert_eq!(outcome.expect_err("refused").to_string(), "2 of 6 lines were refused");
    assert_eq!(arrived(&fake), [5, 2, 0, 4]);
    let file = place.path().display().to_string();
    let soon = "neither a time (as 2024-05-25 15:46:52.42) nor a number";
    assert_eq!(
        report.reasons,
        [
            format!("{file}:3: at is \"soon\", {soon}"),
            format!("{file}:5: at is null, so the row has no place in the order"),
        ]
    );
    assert_eq!((report.lines, report.acked, report.refused), (6, 4, 2));
    assert_eq!((report.out_of_order, report.batches), (Some(2), 3));
    assert!(report.mean_batch_ms.is_some_and(|mean| mean > 0.0), "{report}");
    assert!(report.to_string().contains("\nout of order  2\n"), "{report}");
    assert_eq!(fake.seen().batches.iter().map(|b| b.2).collect::<Vec<_>>(), [0, 2, 2]);
}

#[tokio::test]
async fn rows_keep_their_identity_in_every_order() {
    let (fake, place) = (Fake::start("client", []).await, backwards(5));
    let pushes = [sorted(&[]), sorted(&["--batch-rows", "2"]), SORTED[..2].to_vec()];
    for more in &pushes {
        let (report, outcome) = place.push(&fake, more).await;
        outcome.expect("done");
        assert_eq!(report.out_of_order, more.contains(&"--sort-by").then_some(4));
    }
    let ids = fake.ids();
    assert_eq!(ids[..5], ids[5..10], "what is pushed again counts once");
    let reversed: Vec<String> = ids[10..].iter().rev().cloned().collect();
    assert_eq!(ids[..5], reversed);
    assert_eq!(arrived(&fake)[..5], [4, 3, 2, 1, 0]);
    let producers: std::collections::HashSet<String> =
        fake.seen().opens.iter().map(|open| open.producer_id.clone()).collect();
    assert_eq!(producers.len(), 3, "{producers:?}");
    assert_eq!(place.state_files(), 0);
}

#[tokio::test]
async fn several_files_are_sorted_together() {
    let first = [(0, at(1)), (1, at(5))];
    let second = [(2, at(3)), (3, at(1))];
    let text = |rows: &[(u32, String)]| {
        csv(&rows.iter().map(|(n, at)| (*n, at.as_str())).collect::<Vec<_>>())
    };
    let (fake, place) = (Fake::start("client", []).await, Place::with(&text(&first)));
    let other = place.dir.path().join("b.csv");
    fs::write(&other, format!("{}4,never\n", text(&second))).expect("write");
    let other = other.to_str().expect("text");
    let (report, outcome) = place.push(&fake, &sorted(&[other])).await;
    outcome.expect_err("refused");
    assert_eq!(arrived(&fake), [0, 3, 2, 1]);
    assert_eq!((report.files.len(), report.lines, report.out_of_order), (2, 5, Some(1)));
    assert!(report.reasons[0].starts_with(&format!("{other}:4: at is \"never\"")), "{report}");
    let digest = |path: &str| {
        let input = read::inspect(Path::new(path), Some(Format::Csv), Encoding::Auto);
        input.expect("inspect").digest
    };
    let place = place.path();
    let (a, b) = (digest(place.to_str().expect("text")), digest(other));
    let expected = [(&a, 0), (&b, 1), (&b, 0), (&a, 1)].map(|(d, n)| format!("{}:{n}", &d[..16]));
    assert_eq!(fake.ids(), expected);
}

#[tokio::test]
async fn an_interrupted_push_goes_on_in_the_same_order() {
    let (fake, place) = (Fake::start("client", [(5, Fault::Die)]).await, backwards(20));
    let more = sorted(&["--batch-rows", "2", "--retry-for", "0"]);
    let (report, outcome) = place.push(&fake, &more).await;
    assert_eq!(outcome.expect_err("lost").exit_code(), 69);
    assert_eq!((report.acked, report.out_of_order, report.batches), (8, Some(19), 4));
    fake.revive();
    let before = fake.seen().batches.len();
    let (report, outcome) = place.push(&fake, &more).await;
    outcome.expect("done");
    assert_eq!((report.lines, report.acked_before, report.acked), (20, 8, 12));
    assert_eq!((report.out_of_order, report.batches), (Some(19), 6));
    assert_eq!(arrived(&fake), (0..20).rev().collect::<Vec<_>>(), "each once");
    let seen = fake.seen();
    assert_eq!(seen.batches[before].1, 4, "goes on with the next sequence");
    assert!(seen.opens.iter().all(|open| open.producer_id == seen.opens[0].producer_id));
}

#[tokio::test]
async fn another_order_does_not_take_up_an_interrupted_push() {
    let (fake, place) = (Fake::start("client", [(5, Fault::Die)]).await, backwards(20));
    let cut = ["--batch-rows", "2", "--retry-for", "0"];
    place.push(&fake, &sorted(&cut)).await.1.expect_err("lost");
    fake.revive();
    let unsorted: Vec<&str> = SORTED[..2].iter().chain(&cut).copied().collect();
    let (report, outcome) = place.push(&fake, &unsorted).await;
    outcome.expect("done");
    assert_eq!((report.acked_before, report.acked), (0, 20));
    let (report, outcome) = place.push(&fake, &sorted(&cut)).await;
    outcome.expect("done");
    assert_eq!((report.acked_before, report.acked), (8, 12));
}

#[tokio::test]
async fn a_replay_waits_for_the_times_of_the_events() {
    // A second of event time per second: all but the first ones are due much later.
    let (fake, place) = (Fake::start("client", []).await, backwards(400));
    let args = place.args(&fake.url, &sorted(&["--speed", "0.001x"]));
    let (report, outcome) = stopped_once_something_came(&fake, &args).await;
    outcome.expect_err("interrupted");
    assert_eq!((report.acked, report.batches), (1, 1));
    assert_eq!(arrived(&fake), [399]);
    // At a thousand million, all of it is over at once.
    let (report, outcome) = place.push(&fake, &sorted(&["--speed", "1e9"])).await;
    outcome.expect("done");
    assert_eq!((report.acked_before, report.acked), (1, 399));
    assert_eq!(arrived(&fake), (0..400).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_replay_without_times_sends_nothing() {
    let (fake, place) = (Fake::start("client", []).await, Place::with("id,at\n1,1\n2,2\n"));
    let (report, outcome) = place.push(&fake, &sorted(&["--speed", "10"])).await;
    let failure = outcome.expect_err("no times").to_string();
    assert!(failure.ends_with("--speed needs times, but at holds numbers; give --rate instead"));
    assert_eq!((report.acked, report.batches, report.mean_batch_ms), (0, 0, None));
    assert!(fake.seen().batches.is_empty());
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let parse = |more: &[&str]| {
        let words = ["push", "s", "a.csv"].iter().chain(more);
        Command::try_parse_from(words).map(|command| command.args)
    };
    let args = parse(&["--sort-by", "at", "--speed", "3600x", "--batch-rows", "800"]);
    let args = args.expect("arguments");
    assert_eq!((args.speed, args.batch_size), (Some(3600.0), 800));
    assert_eq!(parse(&["--sort-by", "at", "--speed", "2"]).expect("arguments").speed, Some(2.0));
    for (more, told) in [
        (&["--speed", "3600x"][..], "--sort-by <FIELD>"),
        (&["--sort-by", "at", "--speed", "2", "--rate", "2"], "'--rate <N>'"),
        (&["--sort-by", "at", "--loop"], "'--sort-by <FIELD>' cannot be used with '--loop'"),
        (&["--sort-by", ""], "a value is required for '--sort-by <FIELD>'"),
        (&["--sort-by", "at", "--speed", "0x"], "give a number above 0, such as 3600x"),
    ] {
        let error = parse(more).expect_err("refused").to_string();
        assert!(error.contains(told), "{error}");
    }
}
