use std::{fs, path::Path, time::Duration};

use clap::Parser as _;
use tempfile::TempDir;
use tonic::Code;

use super::{
    fake::{Fake, Fault},
    *,
};

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

/// A folder with a file of `count` rows, and the state folder.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new(count: usize) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let lines: String = (0..count).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        fs::write(dir.path().join("a.ndjson"), lines).expect("write");
        Self { dir }
    }

    fn with(contents: &str) -> Self {
        let place = Self::new(0);
        fs::write(place.path(), contents).expect("write");
        place
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("a.ndjson")
    }

    fn args(&self, url: &str, more: &[&str]) -> Args {
        let (file, state) = (self.path(), self.dir.path().join("state"));
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        let mut words: Vec<String> =
            ["push", "s", &text(&file), "--url", url, "--state-dir", &text(&state)]
                .map(String::from)
                .to_vec();
        words.extend(["--query-url", "none", "--quiet"].map(String::from));
        words.extend(more.iter().map(|word| (*word).to_owned()));
        Command::try_parse_from(words).expect("arguments").args
    }

    async fn push(&self, fake: &Fake, more: &[&str]) -> (Report, Result<(), Failure>) {
        let stop = CancellationToken::new();
        push(&self.args(&fake.url, more), &stop).await.expect("a report")
    }

    fn state_files(&self) -> usize {
        fs::read_dir(self.dir.path().join("state")).expect("state").count()
    }
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{{\"n\":{n}}}")).collect()
}

#[tokio::test]
async fn a_file_arrives_whole_and_in_order() {
    let (fake, place) = (Fake::start("client", []).await, Place::new(7));
    let (report, outcome) = place.push(&fake, &["--batch-size", "3"]).await;
    outcome.expect("done");
    assert_eq!(fake.payloads(), numbers(7));
    let counts = (report.lines, report.acked, report.acked_before, report.refused);
    assert_eq!(counts, (7, 7, 0, 0));
    assert_eq!((report.accepted, report.repeats), (None, None));
    assert!(!report.interrupted);
    assert!(report.to_string().contains("  repeats     not known here\n"));
    assert_eq!(fake.seen().batches.iter().map(|b| b.2).collect::<Vec<_>>(), [3, 3, 1]);
    assert_eq!((report.batches, report.out_of_order), (3, None));
    assert!(report.mean_batch_ms.is_some_and(|mean| mean > 0.0), "{report}");
    assert_eq!(place.state_files(), 0, "a finished push leaves no state");
}

#[tokio::test]
async fn rows_are_joined_into_arrays() {
    let (fake, place) = (Fake::start("column:n", []).await, Place::new(7));
    let (report, outcome) = place.push(&fake, &["--as-arrays", "3"]).await;
    outcome.expect("done");
    let arrays =
        ["[{\"n\":0},{\"n\":1},{\"n\":2}]", "[{\"n\":3},{\"n\":4},{\"n\":5}]", "[{\"n\":6}]"];
    assert_eq!(fake.payloads(), arrays);
    assert_eq!((report.lines, report.acked, report.records, report.batches), (7, 7, Some(3), 3));
    assert!(report.to_string().contains("acked         7\n  in records  3\n"), "{report}");
    // A record is no larger than the server takes: 100 bytes.
    place.push(&fake, &["--as-arrays", "20"]).await.1.expect("done");
    let sizes: Vec<usize> = fake.payloads()[3..].iter().map(String::len).collect();
    assert_eq!(sizes, [57]);
    let wide = Place::with(&format!("{{\"n\":\"{}\"}}\n", "x".repeat(30)).repeat(3));
    let report = wide.push(&fake, &["--as-arrays", "20"]).await.0;
    assert_eq!((report.acked, report.records), (3, Some(2)), "{:?}", fake.payloads());
}

#[tokio::test]
async fn a_record_is_refused_with_all_of_its_rows() {
    let contents = "{\"n\":0}\n{\"n\":1}\n{\"n\":NaN}\n{\"refuse\":1}\n{\"n\":4}\n";
    let (fake, place) = (Fake::start("column:n", []).await, Place::with(contents));
    let (report, outcome) = place.push(&fake, &["--as-arrays", "2"]).await;
    outcome.expect_err("refused lines");
    assert_eq!(fake.payloads(), ["[{\"n\":0},{\"n\":1}]", "[{\"n\":4}]"]);
    let counts = (report.lines, report.acked, report.refused, report.records);
    assert_eq!(counts, (5, 3, 2, Some(2)));
}

#[tokio::test]
async fn an_interrupted_push_of_arrays_goes_on_where_it_stopped() {
    let (fake, place) = (Fake::start("column:n", [(3, Fault::Die)]).await, Place::new(7));
    let words = ["--as-arrays", "2", "--retry-for", "0"];
    place.push(&fake, &words).await.1.expect_err("the server is gone");
    fake.revive();
    let (report, outcome) = place.push(&fake, &words).await;
    outcome.expect("done");
    assert_eq!((report.lines, report.acked_before, report.acked), (7, 4, 3));
    assert_eq!(report.records, Some(4));
    let rows: String = numbers(7).join(",");
    let sent: Vec<String> = fake.payloads().iter().map(|p| p[1..p.len() - 1].to_owned()).collect();
    assert_eq!(sent.join(","), rows);
}

#[tokio::test]
async fn streams_that_do_not_take_arrays_or_know_no_events_refuse_them() {
    for (event_id, reason) in
        [("content", "takes one event per record"), ("client", "what identifies its events")]
    {
        let (fake, place) = (Fake::start(event_id, []).await, Place::new(2));
        let args = place.args(&fake.url, &["--as-arrays", "2"]);
        let error = push(&args, &CancellationToken::new()).await.expect_err("refused");
        assert!(error.to_string().contains(reason), "{error}");
        assert!(fake.payloads().is_empty());
    }
    for more in [&["--as-arrays", "0"][..], &["--as-arrays", "2", "--loop"]] {
        let words = ["push", "s", "f"].iter().chain(more);
        assert!(Command::try_parse_from(words).is_err(), "{more:?}");
    }
}

#[tokio::test]
async fn rows_are_identified_by_file_and_row_number() {
    let (fake, place) = (Fake::start("client", []).await, Place::new(3));
    place.push(&fake, &[]).await.1.expect("done");
    place.push(&fake, &["--batch-size", "2"]).await.1.expect("done");
    let ids = fake.ids();
    assert_eq!(ids.len(), 6, "a finished push is not resumed");
    assert_eq!(ids[..3], ids[3..]);
    let digest = read::inspect(&place.path(), None, Encoding::Auto).expect("inspect").digest;
    assert_eq!(ids[1], format!("{}:1", &digest[..16]));
}

#[tokio::test]
async fn streams_that_identify_their_events_get_no_ids() {
    let (fake, place) = (Fake::start("content", []).await, Place::new(2));
    place.push(&fake, &[]).await.1.expect("done");
    assert_eq!(fake.ids(), ["", ""]);
}

#[tokio::test]
async fn refused_lines_are_reported_with_file_and_line() {
    let long = format!("{{\"long\":\"{}\"}}", "x".repeat(100));
    let contents = format!("{{\"n\":0}}\n{{\"n\":NaN}}\n{{\"refuse\":1}}\n{long}\n{{\"n\":4}}\n");
    let (fake, place) = (Fake::start("client", []).await, Place::with(&contents));
    let (report, outcome) = place.push(&fake, &[]).await;
    let failure = outcome.expect_err("refused lines");
    assert_eq!(
        (failure.exit_code(), failure.to_string().as_str()),
        (1, "3 of 5 lines were refused")
    );
    let file = place.path().display().to_string();
    assert_eq!(
        report.reasons,
        [
            format!("{file}:2: bare NaN at column 6 is not JSON; write null"),
            format!("{file}:3: f: told to refuse"),
            format!("{file}:4: 111 bytes, but an event may have 100"),
        ]
    );
    assert_eq!((report.lines, report.acked, report.refused), (5, 2, 3));
    let ids = fake.ids();
    assert!(ids[0].ends_with(":0") && ids[1].ends_with(":4"), "{ids:?}");
}

#[tokio::test]
async fn a_dropped_connection_costs_nothing() {
    let faults = [(3, Fault::Cut), (6, Fault::LoseAck)];
    let (fake, place) = (Fake::start("client", faults).await, Place::new(20));
    let (report, outcome) = place.push(&fake, &["--batch-size", "2"]).await;
    outcome.expect("done");
    assert_eq!(fake.payloads(), numbers(20));
    assert_eq!((report.lines, report.acked), (20, 20));
}

#[tokio::test]
async fn a_lost_server_is_resumed_after() {
    let (fake, place) = (Fake::start("client", [(5, Fault::Die)]).await, Place::new(20));
    let more = ["--batch-size", "2", "--retry-for", "0"];
    let (report, outcome) = place.push(&fake, &more).await;
    let failure = outcome.expect_err("lost");
    assert_eq!(failure.exit_code(), 69);
    let hint = "8 events are acked, run the same command again to go on";
    assert!(failure.to_string().ends_with(hint), "{failure}");
    assert_eq!((report.lines, report.acked, report.interrupted), (8, 8, true));
    assert_eq!(place.state_files(), 1);
    fake.revive();
    let before = fake.seen().batches.len();
    let (report, outcome) = place.push(&fake, &more).await;
    outcome.expect("done");
    let counts = (report.lines, report.acked_before, report.acked, report.refused);
    assert_eq!(counts, (20, 8, 12, 0));
    // The batch that was kept without an ack is known by its sequence.
    assert_eq!(fake.payloads(), numbers(20));
    let seen = fake.seen();
    assert_eq!(seen.batches[before].1, 4, "goes on with the next sequence");
    assert!(seen.opens.iter().all(|open| open.producer_id == seen.opens[0].producer_id));
    assert_eq!(place.state_files(), 0);
}

#[tokio::test]
async fn a_server_with_another_log_gets_everything() {
    let (fake, place) = (Fake::start("client", [(5, Fault::Die)]).await, Place::new(20));
    let more = ["--batch-size", "2", "--retry-for", "0"];
    place.push(&fake, &more).await.1.expect_err("lost");
    fake.wipe();
    let args = place.args(&fake.url, &more);
    let (endpoint, inputs) =
        (endpoint::endpoint("--url", &fake.url, "http").expect("url"), inspect(&args).await);
    let info = look_up(&endpoint, "s").await.expect("info");
    let parts = args.parts(&inputs.expect("inputs"));
    let store = open_store(&args, &endpoint, &parts).expect("store");
    let (_, note) = begin(&args, &info, store.as_ref(), &parts, cut_for(&args, &info));
    let note = note.expect("it is said");
    let told = "has another log than the one that acked 8 events of the interrupted push: \
                starting anew";
    assert_eq!(note, format!("{} {told}", fake.url));
    let (report, outcome) = place.push(&fake, &more).await;
    outcome.expect("done");
    assert_eq!((report.lines, report.acked_before, report.acked), (20, 0, 20));
    assert_eq!(fake.payloads(), numbers(20));
}

#[tokio::test]
async fn without_resume_everything_is_sent_again() {
    let (fake, place) = (Fake::start("client", [(3, Fault::Die)]).await, Place::new(6));
    let more = ["--batch-size", "1", "--retry-for", "0", "--no-resume"];
    place.push(&fake, &more).await.1.expect_err("lost");
    fake.revive();
    let (report, outcome) = place.push(&fake, &more).await;
    outcome.expect("done");
    assert_eq!((report.acked_before, report.acked), (0, 6));
    assert_eq!(fake.payloads().len(), 3 + 6);
}

#[tokio::test]
async fn a_push_that_was_killed_goes_on_from_its_last_written_state() {
    let (fake, place) = (Fake::start("client", []).await, Place::new(60));
    let args = place.args(&fake.url, &["--batch-size", "1", "--rate", "20"]);
    let stop = CancellationToken::new();
    {
        // Dropped in the middle of its work, as a kill would: nothing more is written.
        let push = push(&args, &stop);
        tokio::pin!(push);
        let written = async {
            let is_state = |entry: std::io::Result<fs::DirEntry>| {
                entry.is_ok_and(|entry| entry.path().extension().is_some_and(|e| e == "json"))
            };
            let dir = place.dir.path().join("state");
            while !fs::read_dir(&dir).is_ok_and(|mut files| files.any(is_state)) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = &mut push => panic!("too fast"),
            () = written => {}
        }
    }
    let first = fake.payloads().len();
    assert!((1..60).contains(&first), "the kill fell inside the push: {first}");
    let (report, outcome) = place.push(&fake, &["--batch-size", "1"]).await;
    outcome.expect("done");
    assert!(report.acked_before > 0);
    assert_eq!(report.acked_before + report.acked, 60);
    assert_eq!(report.lines, 60);
    let ids = fake.ids();
    let distinct: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), 60, "the same identities as before");
}

/// A push that is stopped as soon as something has arrived: its report, and how it ends.
async fn stopped_once_something_came(fake: &Fake, args: &Args) -> (Report, Result<(), Failure>) {
    let stop = CancellationToken::new();
    let stopper = async {
        while fake.payloads().is_empty() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        std::future::pending::<()>().await;
    };
    let pushed = tokio::select! {
        pushed = push(args, &stop) => pushed,
        () = stopper => unreachable!(),
    };
    pushed.expect("a report")
}

#[tokio::test]
async fn a_stop_waits_for_the_acks_and_says_how_to_go_on() {
    let (fake, place) = (Fake::start("client", []).await, Place::new(1000));
    let args = place.args(&fake.url, &["--rate", "100"]);
    let (report, outcome) = stopped_once_something_came(&fake, &args).await;
    let failure = outcome.expect_err("interrupted");
    assert_eq!(failure.exit_code(), 1);
    let acked = fake.payloads().len() as u64;
    let message = format!("interrupted: {acked} acked; run the same command again to go on");
    assert_eq!(failure.to_string(), message);
    assert_eq!((report.acked, report.interrupted), (acked, true));
    let (report, outcome) = place.push(&fake, &[]).await;
    outcome.expect("done");
    assert_eq!((report.acked_before, report.acked), (acked, 1000 - acked));
    assert_eq!(fake.payloads(), numbers(1000));
}

#[tokio::test]
async fn a_loop_sends_new_events_each_round() {
    let (fake, place) = (Fake::start("client", []).await, Place::new(3));
    let args = place.args(&fake.url, &["--loop"]);
    let stop = CancellationToken::new();
    let stopper = async {
        while fake.payloads().len() < 9 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        std::future::pending::<()>().await;
    };
    let pushed = tokio::select! {
        pushed = push(&args, &stop) => pushed,
        () = stopper => unreachable!(),
    };
    let (report, outcome) = pushed.expect("a report");
    outcome.expect("stopping is how a loop ends");
    let ids = fake.ids();
    let distinct: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len());
    assert_eq!(report.acked, ids.len() as u64);
    assert!(fake.payloads().iter().zip(numbers(3).iter().cycle()).all(|(a, b)| a == b));
}

#[tokio::test]
async fn a_loop_into_a_stream_that_would_count_nothing_twice_is_refused() {
    for (event_id, by) in [("content", "by their content"), ("column:n", "by their column \"n\"")] {
        let (fake, place) = (Fake::start(event_id, []).await, Place::new(3));
        let stop = CancellationToken::new();
        let refused = push(&place.args(&fake.url, &["--loop"]), &stop).await;
        let failure = refused.map(|_| ()).expect_err("no loop");
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.to_string().contains(by), "{failure}");
        assert!(fake.seen().events.is_empty());
        let (report, outcome) = place.push(&fake, &[]).await;
        outcome.expect("without --loop it is fine");
        assert_eq!(report.acked, 3);
    }
}

#[tokio::test]
async fn a_loop_over_nothing_ends() {
    let (fake, place) = (Fake::start("client", []).await, Place::with("{\"n\":NaN}\n"));
    let (report, outcome) = place.push(&fake, &["--loop"]).await;
    assert_eq!(outcome.expect_err("refused").to_string(), "1 of 1 lines were refused");
    assert_eq!((report.lines, report.acked, report.interrupted), (1, 0, false));
}

#[tokio::test]
async fn several_files_are_pushed_in_order() {
    let (fake, place) = (Fake::start("client", []).await, Place::new(2));
    let second = place.dir.path().join("b.csv");
    fs::write(&second, "x\n1\n").expect("write");
    let (report, outcome) = place.push(&fake, &[second.to_str().expect("text")]).await;
    outcome.expect("done");
    assert_eq!(fake.payloads(), [r#"{"n":0}"#, r#"{"n":1}"#, r#"{"x":"1"}"#]);
    assert_eq!((report.files.len(), report.lines), (2, 3));
}

#[tokio::test]
async fn an_empty_file_is_no_error() {
    let (fake, place) = (Fake::start("client", []).await, Place::new(0));
    let (report, outcome) = place.push(&fake, &[]).await;
    outcome.expect("done");
    assert_eq!((report.lines, report.acked), (0, 0));
}

async fn failure_of(place: &Place, args: &Args) -> Failure {
    let failure = push(args, &CancellationToken::new()).await.expect_err("a failure");
    assert!(place.path().exists());
    failure
}

#[tokio::test]
async fn what_is_wrong_is_said_before_any_work() {
    let (fake, place) = (Fake::start("client", []).await, Place::new(1));

    let mut args = place.args(&fake.url, &[]);
    args.stream = "ss".into();
    let failure = failure_of(&place, &args).await;
    let message =
        format!("stream \"ss\" does not exist at {}; did you mean \"s\"? (streams: s)", fake.url);
    assert_eq!((failure.exit_code(), failure.to_string()), (2, message));

    let failure = failure_of(&place, &place.args("http://127.0.0.1:1", &[])).await;
    assert_eq!(failure.exit_code(), 69);
    let message = failure.to_string();
    assert!(message.starts_with("no ingest server answers at http://127.0.0.1:1 ("), "{message}");

    let failure = failure_of(&place, &place.args(&fake.url, &["none.csv"])).await;
    assert_eq!(failure.exit_code(), 2);
    assert!(failure.to_string().starts_with("cannot read none.csv: No such file"), "{failure}");
    assert_eq!(fake.seen().batches.len(), 0);
}

#[tokio::test]
async fn a_code_that_is_final_ends_the_push() {
    let faults = [(1, Fault::Fail(Code::PermissionDenied))];
    let (fake, place) = (Fake::start("client", faults).await, Place::new(1));
    let (_, outcome) = place.push(&fake, &[]).await;
    assert_eq!(outcome.expect_err("refused").exit_code(), 2);
}

#[tokio::test]
async fn a_file_that_breaks_off_is_reported_after_what_it_held() {
    let (fake, place) = (Fake::start("client", []).await, Place::new(0));
    let zstd = zstd::encode_all(&b"{\"n\":0}\n".repeat(40_000)[..], 1).expect("compress");
    fs::write(place.path(), &zstd[..zstd.len() - 4]).expect("write");
    let (report, outcome) = place.push(&fake, &[]).await;
    let failure = outcome.expect_err("breaks off");
    assert_eq!(failure.exit_code(), 1);
    assert!(failure.to_string().contains("a.ndjson after line "), "{failure}");
    assert_eq!(report.acked, fake.payloads().len() as u64);
    assert!(report.interrupted);
}

#[test]
fn a_push_may_run_on_any_thread() {
    fn is_send(_: &impl Send) {}
    let place = Place::new(0);
    is_send(&run(place.args("http://127.0.0.1:1", &[]), CancellationToken::new()));
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    for word in ["0", "-1", "NaN", "inf", "x"] {
        assert!(positive(word).is_err(), "{word}");
    }
    assert_eq!(positive("0.5"), Ok(0.5));
}

#[tokio::test]
async fn the_retry_window_begins_anew_with_every_ack() {
    // Each batch fails once; together that takes longer than the window for one of them.
    let faults = (0..8).map(|n| (2 * n + 1, Fault::Fail(Code::Unavailable)));
    let (fake, place) = (Fake::start("client", faults).await, Place::new(8));
    let args = place.args(&fake.url, &["--rate", "20", "--retry-for", "1"]);
    let started = std::time::Instant::now();
    let (report, outcome) = push(&args, &CancellationToken::new()).await.expect("a report");
    outcome.expect("done");
    assert_eq!(report.acked, 8);
    assert!(started.elapsed() >= Duration::from_millis(350), "paced at 20 events/s");
}

mod sorted;
