//! A stream whose log is not what the lake rests on stops; the others go on.

use super::support::*;
use crate::{
    log::{Log as _, StreamSpec},
    process::Error,
};

/// The log takes events, and forgets them before anybody has read them.
async fn forget(rig: &Rig) {
    for id in 0..300 {
        rig.append([(id, "a", 1)]).await;
    }
    let extents = rig.log().extents("events").await.expect("extents");
    for (partition, extent) in (0..).zip(extents) {
        rig.log().trim("events", partition, extent.end - 1).await.expect("trim");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_in_one_stream_stops_it_and_no_other() {
    let rig = Rig::new().await;
    rig.write("streams/others.yml", &CONTRACT.replace("name: events", "name: others"));
    rig.write("models/silver/other.sql", "SELECT id, v FROM {{ source('bronze', 'others') }}");
    rig.log().ensure(&[StreamSpec::new("others", 2)]).await.expect("ensure");
    let running = rig.start();
    rig.append([(900, "a", 1)]).await;
    running.settled().await;
    running.stop().await;
    forget(&rig).await;
    let records = (0..7).map(|id| event(id, "b", 2)).collect();
    rig.log().append("others", records).await.expect("append");

    let running = rig.start();
    running.settled().await;
    assert_eq!(running.numbers("SELECT count(*), sum(v) FROM silver.other").await, [7, 14]);
    // What it had stays.
    assert_eq!(running.numbers("SELECT count(*), sum(v) FROM silver.rows").await, [1, 1]);
    let states = running.text("SELECT DISTINCT stream, state FROM system.streams ORDER BY 1").await;
    assert_eq!(states, "events stopped\nothers follows");
    let why = "SELECT DISTINCT why FROM system.streams WHERE stream = 'events'";
    let why = running.text(why).await;
    assert!(why.starts_with("data_gap: events/") && why.contains("--accept-gap"), "{why}");
    let view = running.view.load();
    let lagging: Vec<String> = view.lagging.keys().map(ToString::to_string).collect();
    assert_eq!(
        lagging.join(" "),
        "bronze.events gold.named gold.totals quarantine.events silver.big silver.rows"
    );
    // It goes on with what comes.
    rig.log().append("others", vec![event(7, "b", 2)]).await.expect("append");
    running.settled().await;
    assert_eq!(running.numbers("SELECT count(*) FROM silver.other").await, [8]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_in_the_only_stream_ends_the_process() {
    let rig = Rig::new().await;
    let running = rig.start();
    rig.append([(900, "a", 1)]).await;
    running.settled().await;
    running.stop().await;
    forget(&rig).await;
    let ended = rig.start().task.await.expect("task");
    assert!(
        matches!(&ended, Err(Error::DataGap { stream, .. }) if stream == "events"),
        "{ended:?}"
    );
}
