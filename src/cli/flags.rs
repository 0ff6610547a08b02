//! Flags that every command that runs a server has.

use std::path::PathBuf;

use clap::Args;

use crate::{
    cli::{Failure, folders},
    config::{self, Effective, FlagValue},
    lake::Lake,
};

/// The everyday flags; each overrides a key of the configuration.
#[derive(Debug, Clone, Default, Args)]
pub struct ServerFlags {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "SLUICE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Folder of everything that is stored [default: sluice-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Folder of the lake, which processors of one group share [default: in the data folder]
    #[arg(long, value_name = "DIR")]
    pub lake: Option<PathBuf>,
    /// Where acked events live until Bronze has them: embedded, or kafka://HOST:PORT[,HOST:PORT]
    /// [default: embedded]
    #[arg(long, value_name = "LOG")]
    pub log: Option<String>,
    /// Consumer group in which processors share the partitions of a Kafka log [default: none]
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// HOST:PORT of gRPC ingest [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDRESS")]
    pub ingest_listen: Option<String>,
    /// HOST:PORT of Arrow Flight SQL [default: 127.0.0.1:50052]
    #[arg(long, value_name = "ADDRESS")]
    pub flight_listen: Option<String>,
    /// HOST:PORT of /status, /metrics and /health [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub http_listen: Option<String>,
    /// Log lines to standard error: a level, or module=level pairs
    #[arg(long, value_name = "FILTER")]
    pub log_filter: Option<String>,
}

impl ServerFlags {
    /// The effective configuration: defaults, file, environment, these flags.
    pub fn load(&self) -> Result<Effective, Failure> {
        let data_dir = self.data_dir.as_ref().map(|dir| dir.display().to_string());
        let lake = self.lake.as_ref().map(|dir| dir.display().to_string());
        let all = [
            ("server", "data_dir", data_dir, "--data-dir"),
            ("server", "lake", lake, "--lake"),
            ("kafka", "group", self.group.clone(), "--group"),
            ("server", "log", self.log.clone(), "--log"),
            ("server", "ingest_listen", self.ingest_listen.clone(), "--ingest-listen"),
            ("server", "flight_listen", self.flight_listen.clone(), "--flight-listen"),
            ("server", "http_listen", self.http_listen.clone(), "--http-listen"),
            ("telemetry", "log_filter", self.log_filter.clone(), "--log-filter"),
        ];
        let given: Vec<FlagValue> = all
            .into_iter()
            .filter_map(|(section, key, value, flag)| Some((section, key, value?, flag)))
            .collect();
        config::load(self.config.as_deref(), std::env::vars(), given)
            .map_err(|error| Failure::invalid(error.to_string()))
    }
}

/// A lake that a command looks at too.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LakeFlags {
    /// Data folder whose lake is looked at too
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The same for a lake elsewhere
    #[arg(long, value_name = "DIR")]
    pub lake: Option<PathBuf>,
}

impl LakeFlags {
    /// The lake, if one is named.
    pub(super) fn open(self) -> Result<Option<Lake>, Failure> {
        let Self { data_dir, lake } = self;
        if data_dir.is_none() && lake.is_none() {
            return Ok(None);
        }
        let flags = ServerFlags { data_dir, lake, ..ServerFlags::default() };
        folders::existing_lake(&flags.load()?.config.server).map(Some)
    }
}
