//! Where a server listens: an URL as users write it, made a channel.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use url::Url;

/// Why an URL cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{option} {url}: {reason}; give {option} {scheme}://HOST:PORT")]
pub struct UrlError {
    option: &'static str,
    url: String,
    reason: String,
    scheme: &'static str,
}

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent server is asked for a sign of life, so that a lost one is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The endpoint of `url`, which is the value of `option`. `http`, `grpc`, `grpc+tcp` and no scheme
/// mean the same; `scheme` is the one that messages suggest.
pub fn endpoint(
    option: &'static str,
    url: &str,
    scheme: &'static str,
) -> Result<Endpoint, UrlError> {
    let failed = |reason: String| UrlError { option, url: url.to_owned(), reason, scheme };
    let (given, rest) = url.split_once("://").unwrap_or((scheme, url));
    if matches!(given, "https" | "grpcs" | "grpc+tls") {
        return Err(failed("TLS is not supported yet".into()));
    }
    if !matches!(given, "http" | "grpc" | "grpc+tcp") {
        return Err(failed(format!("unknown scheme {given:?}")));
    }
    let parsed =
        Url::parse(&format!("http://{rest}")).map_err(|error| failed(error.to_string()))?;
    if !parsed.has_host() || parsed.path() != "/" {
        return Err(failed("not an address of a server".into()));
    }
    // 80 is what the parser leaves out.
    if parsed.port().is_none() && !rest.trim_end_matches('/').ends_with(":80") {
        return Err(failed("the port is missing".into()));
    }
    let endpoint = Endpoint::from_shared(parsed.to_string())
        .map_err(|error| failed(crate::cli::chain(&error)))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20))
}

/// A channel that connects when it is first used.
pub fn channel(endpoint: &Endpoint) -> Channel {
    endpoint.connect_lazy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_address_means_the_same_server() {
        for url in ["http://127.0.0.1:50051", "grpc://127.0.0.1:50051/", "127.0.0.1:50051"] {
            let endpoint = endpoint("--url", url, "http").expect("endpoint");
            assert_eq!(endpoint.uri().to_string(), "http://127.0.0.1:50051/");
        }
    }

    #[test]
    fn an_unusable_address_says_what_to_give() {
        let message = |url| endpoint("--url", url, "http").map(|_| ()).unwrap_err().to_string();
        assert_eq!(
            message("https://h:1"),
            "--url https://h:1: TLS is not supported yet; give --url http://HOST:PORT"
        );
        assert_eq!(
            message("http://localhost"),
            "--url http://localhost: the port is missing; give --url http://HOST:PORT"
        );
        assert!(message("ftp://h:1").contains("unknown scheme \"ftp\""));
    }
}
