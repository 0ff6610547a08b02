//! The contracts that filled a lake, remembered beside its tables in `_contracts/STREAM.json`.

use crate::{
    domain::compatibility::RecordedContract,
    lake::Lake,
    process::{Error, Planned, relations::bronze_table},
    project::{Diagnostic, Diagnostics, Level, compared, vanished},
};

/// Where contracts are recorded. Persisted: must stay stable.
const FOLDER: &str = "_contracts";

/// How the contracts of a project differ from those that filled a lake.
#[derive(Debug, Default)]
pub struct Compared {
    /// What cannot be.
    pub refused: Diagnostics,
    /// What can be, and follows from it.
    pub told: Vec<Diagnostic>,
}

/// Compares the project's contracts with those that the lake records. Reads only.
pub async fn compare(planned: &Planned, lake: &Lake) -> Result<Compared, Error> {
    let (root, mut found) = (&planned.project.root, Compared::default());
    for contract in &planned.project.streams {
        let Some(recorded) = recorded(lake, &contract.name).await? else { continue };
        for diagnostic in compared(root, &recorded, contract) {
            match diagnostic.level {
                Level::Error => found.refused.push(diagnostic),
                Level::Warning | Level::Note => found.told.push(diagnostic),
            }
        }
    }
    for file in lake.documents(FOLDER).await? {
        let Some(stream) = file.strip_suffix(".json") else { continue };
        let is_known = planned.project.streams.iter().any(|contract| contract.name == stream);
        if !is_known && lake.has(&bronze_table(stream)).await? {
            found.told.push(vanished(root, stream));
        }
    }
    Ok(found)
}

/// Records the project's contracts where they are not the recorded ones: once they were compared.
pub async fn record(planned: &Planned, lake: &Lake) -> Result<(), Error> {
    for contract in &planned.project.streams {
        let now = RecordedContract::from(contract);
        if recorded(lake, &contract.name).await?.as_ref() != Some(&now) {
            let text = serde_json::to_vec_pretty(&now)
                .map_err(|e| unreadable(contract_file(&now.stream), &e))?;
            lake.put_document(FOLDER, &contract_file(&contract.name), text.into()).await?;
        }
    }
    Ok(())
}

fn contract_file(stream: &str) -> String {
    format!("{stream}.json")
}

fn unreadable(file: String, error: &serde_json::Error) -> Error {
    Error::Internal(format!("lake file {FOLDER}/{file}: {error}"))
}

async fn recorded(lake: &Lake, stream: &str) -> Result<Option<RecordedContract>, Error> {
    let file = contract_file(stream);
    let Some(text) = lake.document(FOLDER, &file).await? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|e| unreadable(file, &e))
}
