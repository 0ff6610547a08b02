//! `sluice init`: a new project that works, to be changed into one's own.

use std::path::{Path, PathBuf};

use rust_embed::RustEmbed;
use serde_json::json;

use crate::{
    cli::{Failure, example, print},
    project::{FileSchema, is_identifier, nearest_identifier, schemas},
};

/// What stands in the template for the name of the project.
const NAME: &str = "PROJECT_NAME";
/// Folder of the JSON schemas in a project.
const SCHEMAS: &str = ".sluice/schemas";
/// Where an editor is told of them.
const EDITOR: &str = ".vscode/settings.json";

#[derive(RustEmbed)]
#[folder = "src/cli/init/template"]
struct Template;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The project is a shop: a stream of orders, a seed, three models with tests, and orders to push. What to
do with it stands in its README.md, and step by step in docs/tutorial.md. Editors that speak YAML
find JSON schemas of its files in .sluice/schemas; .vscode/settings.json names them.")]
pub struct Args {
    /// Folder of the new project, whose last part is its name
    pub folder: PathBuf,
    /// Name of the project [default: that of the folder]
    #[arg(long)]
    pub name: Option<String>,
    /// Write only the JSON schemas of its YAML files, into a project that is there already
    #[arg(long)]
    pub schemas: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let folder = &args.folder;
    if args.schemas {
        if !["sluice.yml", "dbt_project.yml"].iter().any(|file| folder.join(file).is_file()) {
            let message = format!("{} is no project: it has no sluice.yml", folder.display());
            return Err(Failure::invalid(message));
        }
        write_schemas(folder)?;
        return print::result(format!("the schemas are in {}", folder.join(SCHEMAS).display()));
    }
    let of_folder = || folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = args.name.clone().unwrap_or_else(of_folder);
    if !is_identifier(&name) {
        let hint = match nearest_identifier(&name) {
            Some(near) => format!("--name {near} does"),
            None => "give one with --name".to_owned(),
        };
        let message = format!("{name:?} cannot be the name of a project, it takes a-z, 0-9 and _");
        return Err(Failure::invalid(format!("{message}; {hint}")));
    }
    let files = || Template::iter().filter_map(|file| Some((Template::get(&file)?.data, file)));
    if let Some((_, file)) = files().find(|(_, file)| folder.join(file.as_ref()).exists()) {
        let there = folder.join(file.as_ref());
        let message = format!("{} is there already; choose another folder", there.display());
        return Err(Failure::invalid(message));
    }
    for (content, file) in files() {
        let text = String::from_utf8_lossy(&content).replace(NAME, &name);
        example::write(folder, &file, text.as_bytes())?;
    }
    write_schemas(folder)?;
    print::result(next(folder))
}

/// Writes what editors need to know the YAML files of a project: JSON schemas, and where they count.
fn write_schemas(folder: &Path) -> Result<(), Failure> {
    let mut places = serde_json::Map::new();
    for FileSchema { name, of, schema } in schemas() {
        let path = format!("{SCHEMAS}/{name}");
        let text = serde_json::to_string_pretty(&schema);
        let text = text.map_err(|error| Failure::work(error.to_string()))?;
        example::write(folder, &path, format!("{text}\n").as_bytes())?;
        places.insert(format!("./{path}"), of.into());
    }
    let settings = serde_json::to_string_pretty(&json!({ "yaml.schemas": places }));
    let settings = settings.map_err(|error| Failure::work(error.to_string()))?;
    if !folder.join(EDITOR).exists() {
        example::write(folder, EDITOR, format!("{settings}\n").as_bytes())?;
    }
    Ok(())
}

/// What to type next.
fn next(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "a project is in {folder}; next:\n\n\
         \x20 cd {folder}\n\
         \x20 sluice check .\n\
         \x20 sluice run . --input orders=data/orders.csv\n\
         \x20 sluice up . --watch"
    )
}
