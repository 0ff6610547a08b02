//! Asks the server about a stream before anything is sent.

use std::time::Duration;

use tokio::time::timeout;
use tonic::{Code, Status, transport::Endpoint};

use super::{
    endpoint::channel,
    sender::{SendError, describe, kind_of},
};
use crate::{
    cli::Failure,
    ingest::proto::{
        GetStreamRequest, ListStreamsRequest, StreamInfo,
        stream_service_client::StreamServiceClient,
    },
};

const TIMEOUT: Duration = Duration::from_secs(10);

/// What the server knows about `stream`.
pub async fn stream(endpoint: &Endpoint, stream: &str) -> Result<StreamInfo, Failure> {
    let mut client = StreamServiceClient::new(channel(endpoint));
    let url = endpoint.uri().to_string();
    let url = url.trim_end_matches('/');
    let request = GetStreamRequest { stream: stream.to_owned() };
    let Ok(answer) = timeout(TIMEOUT, client.get_stream(request)).await else {
        let seconds = TIMEOUT.as_secs();
        return Err(Failure::unavailable(format!("{url} did not answer for {seconds} s")));
    };
    let status = match answer {
        Ok(info) => return Ok(info.into_inner()),
        Err(status) => status,
    };
    match status.code() {
        Code::NotFound => {
            let request = client.list_streams(ListStreamsRequest {});
            let known = match timeout(TIMEOUT, request).await {
                Ok(Ok(answer)) => answer.into_inner().streams,
                _ => Vec::new(),
            };
            let names: Vec<_> = known.into_iter().map(|info| info.stream).collect();
            Err(Failure::invalid(unknown_stream(url, stream, &names)))
        }
        Code::Unavailable => Err(Failure::unavailable(format!(
            "no ingest server answers at {url} ({}); start one with `sluice up`, or give its --url",
            describe(&status)
        ))),
        Code::Unimplemented => Err(not_ingest(url, &status)),
        code => Err(Failure::new(kind_of(code), format!("{url}: {}", describe(&status)))),
    }
}

fn not_ingest(url: &str, status: &Status) -> Failure {
    Failure::unavailable(format!(
        "{url} is not an ingest server ({}); give its --url",
        describe(status)
    ))
}

/// The failure of a command whose sending ended.
pub fn failure(error: &SendError) -> Failure {
    Failure::new(error.kind(), error.to_string())
}

fn unknown_stream(url: &str, stream: &str, known: &[String]) -> String {
    if known.is_empty() {
        return format!("stream {stream:?} does not exist at {url}");
    }
    let nearest = known.iter().min_by_key(|name| strsim::damerau_levenshtein(name, stream));
    let hint = nearest
        .filter(|name| strsim::normalized_damerau_levenshtein(name, stream) >= 0.5)
        .map_or_else(String::new, |name| format!("; did you mean {name:?}?"));
    format!("stream {stream:?} does not exist at {url}{hint} (streams: {})", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_stream_is_answered_with_those_that_exist() {
        let known = ["dvd_clicks".to_owned(), "dvd_rentals".to_owned()];
        assert_eq!(
            unknown_stream("http://h:1", "dvd_click", &known),
            "stream \"dvd_click\" does not exist at http://h:1; did you mean \"dvd_clicks\"? \
             (streams: dvd_clicks, dvd_rentals)"
        );
        assert_eq!(
            unknown_stream("http://h:1", "orders", &known),
            "stream \"orders\" does not exist at http://h:1 (streams: dvd_clicks, dvd_rentals)"
        );
    }
}
