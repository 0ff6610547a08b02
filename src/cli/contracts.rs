//! The contracts of a project beside those that filled its lake.

use crate::{
    cli::{Failure, chain, print},
    lake::Lake,
    process::{self, Planned},
};

/// Tells what changed since the lake was filled; fails where that cannot be.
pub(super) async fn compare(planned: &Planned, lake: &Lake) -> Result<(), Failure> {
    let compared = process::compare(planned, lake).await;
    let compared = compared.map_err(|e| Failure::new(e.kind(), chain(&e)))?;
    for diagnostic in &compared.told {
        print::note(format_args!("{diagnostic}\n"));
    }
    if compared.refused.is_empty() {
        return Ok(());
    }
    let (project, errors) = (planned.project.root.display(), &compared.refused);
    Err(Failure::invalid(format!("project {project} does not fit its lake\n{errors}")))
}
