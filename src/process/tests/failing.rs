//! Models that cannot be computed for a while: they keep what they have, and catch up by themselves.

use super::support::*;
use crate::domain::TableName;

/// A kept model that is new, and one that cannot be computed for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_model_that_fails_waits_and_catches_up_by_itself() {
    let rig = Rig::new().await;
    let sql = "SELECT k, 10 / (sum(v) - 10) AS q, count(*) AS n FROM {{ ref('rows') }} GROUP BY k";
    rig.write("models/gold/fragile.sql", sql);
    rig.write("models/gold/below.sql", "SELECT sum(n) AS n FROM {{ ref('fragile') }}");
    let running = rig.start();
    rig.append([(1, "b", 11)]).await;
    running.settled().await;
    rig.append([(2, "a", 10)]).await;
    rig.append([(3, "b", 1)]).await;
    running.settled().await;
    // What it had stays; the others go on.
    assert_eq!(running.text("SELECT k, q, n FROM fragile").await, "b 10 1");
    assert_eq!(running.numbers("SELECT n FROM below").await, [1]);
    assert_eq!(running.numbers(COUNTS).await, [3, 3, 22]);
    let lagging: Vec<String> =
        running.view.load().lagging.keys().map(ToString::to_string).collect();
    assert_eq!(lagging, ["gold.below", "gold.fragile"]);
    rig.append([(4, "a", 5)]).await;
    running.settled().await;
    assert_eq!(running.text("SELECT k, q, n FROM fragile ORDER BY k").await, "a 2 2\nb 5 2");
    assert_eq!(running.numbers("SELECT n FROM below").await, [4]);
    assert!(running.view.load().lagging.is_empty());
    running.stop().await;
    verified(&rig, "at the end").await;
}

const PER_KEY: &str = "SELECT k, count(*) AS c, sum(v) AS s FROM {{ ref('rows') }} GROUP BY k";

/// What a model could not compute is not lost where it stops, is killed or begins again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_failing_model_is_read_again_after_a_restart() {
    for is_killed in [false, true] {
        let mut rig = Rig::new().await;
        let sql = "SELECT sum(c) AS c, sum(s) AS s, 1000 / sum(s) AS q FROM {{ ref('per_key') }}";
        rig.write("models/gold/per_key.sql", PER_KEY);
        let running = rig.start();
        rig.append([(1, "a", 5), (2, "b", -5)]).await;
        running.settled().await;
        running.stop().await;
        // A new model that cannot be computed of what is there.
        rig.write("models/gold/m.sql", sql);
        rig.write("models/gold/of_m.sql", "SELECT q, count(*) AS n FROM {{ ref('m') }} GROUP BY q");
        for (id, v, expected) in [(3, 10, "3 10 100"), (4, 15, "4 25 40")] {
            rig.reopen_log().await;
            let running = rig.start();
            running.settled().await;
            let failure = running.status.to_json()["models"]["gold.m"]["failure"].to_string();
            assert_eq!(failure.to_lowercase().contains("divide by zero"), id == 3, "{failure}");
            running.end(is_killed).await;
            rig.reopen_log().await;
            let running = rig.start();
            rig.append([(id, "a", v)]).await;
            running.settled().await;
            assert_eq!(running.text("SELECT c, s, q FROM m").await, expected);
            let below = running.text("SELECT q, n FROM of_m").await;
            assert_eq!(below, format!("{} 1", expected.rsplit(' ').next().expect("q")));
            running.stop().await;
            verified(&rig, expected).await;
        }
        // It computes one change, not the next; both before anything is committed.
        rig.reopen_log().await;
        let running = rig.start();
        rig.append([(5, "a", 1)]).await;
        rig.append([(6, "a", -26)]).await;
        running.settled().await;
        running.end(is_killed).await;
        rig.reopen_log().await;
        let running = rig.start();
        rig.append([(7, "c", 10)]).await;
        running.settled().await;
        assert_eq!(running.text("SELECT c, s, q FROM m").await, "7 10 100");
        running.stop().await;
        verified(&rig, "at the end").await;
    }
}

/// A row that came and went again need not be computable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_goes_on_once_the_row_is_gone_that_it_could_not_compute() {
    let rig = Rig::new().await;
    rig.write("models/gold/per_key.sql", PER_KEY);
    let sql = "SELECT count(*) AS n, sum(100 / s) AS q FROM {{ ref('per_key') }}";
    rig.write("models/gold/inverse.sql", sql);
    rig.write(
        "models/gold/newest.sql",
        "SELECT k, v, 100 / v AS q FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY id \
         DESC, _ts, _partition, _offset, _index) AS place FROM {{ source('bronze', 'events') }}) \
         AS ranked WHERE place = 1",
    );
    let running = rig.start();
    for (id, v, failing) in [(1, 5, false), (2, -5, true), (3, 4, false)] {
        rig.append([(id, "a", v)]).await;
        running.settled().await;
        let status = running.status.to_json();
        let failure = &status["models"]["gold.inverse"]["failure"];
        assert_eq!(failure.is_string(), failing, "{id}: {failure}");
    }
    assert_eq!(running.text("SELECT n, q FROM inverse").await, "1 25");
    assert_eq!(running.text("SELECT v, q FROM newest").await, "4 25");
    rig.append([(4, "a", 0)]).await;
    running.settled().await;
    assert!(running.status.to_json()["models"]["gold.newest"]["failure"].is_string());
    rig.append([(5, "a", 20), (6, "b", 50)]).await;
    running.settled().await;
    assert_eq!(running.text("SELECT k, v, q FROM newest ORDER BY k").await, "a 20 5\nb 50 2");
    running.stop().await;
    verified(&rig, "at the end").await;
}

/// An event, whether the model fails after it, and what is shown then, if that is asked.
type Step = (usize, &'static str, i64, bool, Option<&'static str>);

/// Appends events while `gold.of`, on which `gold.below` rests, fails for a while; the loop ends
/// after each, killed or not, if `end` says so.
async fn fails_for_a_while(rig: &mut Rig, end: Option<bool>, steps: [Step; 4]) -> Running {
    let mut running = rig.start();
    for (id, k, v, is_failing, shown) in steps {
        rig.append([(id, k, v)]).await;
        running.settled().await;
        let status = running.status.to_json();
        let failure = status["models"]["gold.of"]["failure"].to_string().to_lowercase();
        assert_eq!(failure.contains("divide by zero"), is_failing, "{id}: {failure}");
        let lagging = &running.view.load().lagging;
        assert_eq!(lagging.contains_key(&TableName::new("gold", "of")), is_failing);
        if let Some(shown) = shown {
            assert_eq!(running.text("SELECT n, q FROM below").await, shown, "{id}");
        }
        if let Some(is_killed) = end {
            running.end(is_killed).await;
            verified(rig, &format!("after {id}")).await;
            rig.reopen_log().await;
            running = rig.start();
            running.settled().await;
        }
    }
    running
}

/// A dimension that makes rows impossible to compute, until it changes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_that_fails_waits_for_its_dimension_and_catches_up_by_itself() {
    for end in [None, Some(false), Some(true)] {
        let mut rig = Rig::new().await;
        rig.write(
            "models/silver/factor.sql",
            "SELECT k, v FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY _ts DESC, \
             _partition, _offset DESC, _index) AS place FROM {{ source('bronze', 'events') }}) AS x \
             WHERE place = 1",
        );
        rig.write(
            "models/gold/of.sql",
            "SELECT r.id, 100 / f.v AS q FROM {{ ref('rows') }} AS r LEFT JOIN {{ ref('factor') }} \
             AS f ON f.k = r.k",
        );
        let below = "SELECT count(*) AS n, sum(q) AS q FROM {{ ref('of') }}";
        rig.write("models/gold/below.sql", below);
        let steps = [
            (1, "a", 5, false, Some("1 20")),
            (2, "b", 0, true, None),
            (3, "a", 10, true, None),
            (4, "b", 4, false, Some("4 70")),
        ];
        let running = fails_for_a_while(&mut rig, end, steps).await;
        let of = running.text("SELECT id, q FROM of ORDER BY id").await;
        assert_eq!(of, "e1 10\ne2 25\ne3 10\ne4 25");
        running.stop().await;
        verified(&rig, "at the end").await;
    }
}

/// A key that cannot be computed keeps what was touched with it back, until it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_by_key_that_fails_waits_and_catches_up_by_itself() {
    for end in [None, Some(false), Some(true)] {
        let mut rig = Rig::new().await;
        rig.write(
            "models/gold/of.sql",
            "SELECT k, count(DISTINCT id) AS n, 100 / sum(v) AS q FROM {{ ref('rows') }} GROUP BY k",
        );
        let below = "SELECT sum(n) AS n, sum(q) AS q FROM {{ ref('of') }}";
        rig.write("models/gold/below.sql", below);
        let steps = [
            (1, "a", 5, false, Some("1 20")),
            (2, "b", 0, true, Some("1 20")),
            (3, "a", 5, true, Some("1 20")),
            (4, "b", 4, false, Some("4 35")),
        ];
        fails_for_a_while(&mut rig, end, steps).await.stop().await;
        verified(&rig, "at the end").await;
    }
}
