//! `seeds/*.csv`: reference data, typed by `column_types` or by what the cells hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::Path,
    sync::Arc,
};

use arrow::{
    array::RecordBatch,
    datatypes::{Field, Schema},
};

use crate::{
    domain::{
        TableName,
        columns::ColumnBuilder,
        contract::FieldType,
        csv::{self, TextRecord},
        decode::{clean_text, read_text},
        identity::fingerprint,
    },
    project::{
        Diagnostic, Diagnostics, Level, SEEDS, Seed,
        config::{HOOKS, Of},
        files, is_identifier,
        models::{configured, of_file},
        nearest,
        properties::Properties,
        settings::{DBT, Settings},
        streams::field_type,
    },
};

const SUFFIXES: [&str; 2] = [".csv", ".csv.gz"];

/// The seeds, and the names of those that are switched off.
pub(super) fn read(
    root: &Path,
    settings: &Settings,
    properties: &BTreeMap<String, Properties>,
    found: &mut Diagnostics,
) -> (Vec<Seed>, BTreeSet<String>) {
    let mut seeds: Vec<Seed> = Vec::new();
    let mut off = BTreeSet::new();
    let mut all = Vec::new();
    for folder in &settings.seed_paths {
        let found = files(root, folder, &SUFFIXES, found);
        all.extend(found.into_iter().map(|file| (of_file(&file, folder), file)));
    }
    for (folders, file) in all {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = SUFFIXES.iter().fold(name.as_str(), |n, suffix| n.trim_end_matches(suffix));
        if !is_identifier(name) {
            let message = format!("`{name}` cannot be a seed name");
            found.push(Diagnostic::file(&file, message).hint("use a-z, 0-9 and _"));
            continue;
        }
        if seeds.iter().any(|seed| seed.name.name == name) {
            found.push(Diagnostic::file(&file, format!("seed `{name}` stands in two files")));
            continue;
        }
        let text = match content(&root.join(&file)) {
            Ok(text) => text,
            Err(reason) => {
                found.push(Diagnostic::file(&file, format!("cannot be read: {reason}")));
                continue;
            }
        };
        let empty = Properties::default();
        let properties = properties.get(name).unwrap_or(&empty);
        let tree = ("seeds", &settings.seeds, Of::Seed);
        let base = configured(root, settings, tree, (&folders, name), found);
        let is_enabled = properties.options.is_enabled.or(base.is_enabled);
        if is_enabled == Some(false) {
            off.insert(name.to_owned());
            continue;
        }
        if let Some(hook) = HOOKS.iter().find(|hook| base.all.contains_key(**hook)) {
            let message = format!("seeds: {hook} of `{name}` is not run");
            let warning = Diagnostic::file(Path::new(DBT), message).level(Level::Warning);
            found.push(warning.hint("Sluice runs no statements of a project"));
        }
        match parse(name, &file, &text, properties, &properties.column_types(&base)) {
            Ok(seed) => seeds.push(seed),
            Err(diagnostic) => found.push(*diagnostic),
        }
    }
    (seeds, off)
}

fn content(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let bytes = if path.extension().is_some_and(|extension| extension == "gz") {
        let mut plain = Vec::new();
        let mut decoder = flate2::read::MultiGzDecoder::new(bytes.as_slice());
        decoder.read_to_end(&mut plain).map_err(|e| e.to_string())?;
        plain
    } else {
        bytes
    };
    let text = String::from_utf8(bytes)
        .map_err(|e| format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to()))?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

fn parse(
    name: &str,
    file: &Path,
    text: &str,
    properties: &Properties,
    column_types: &BTreeMap<String, String>,
) -> Result<Seed, Box<Diagnostic>> {
    let error = |message: String| Box::new(Diagnostic::file(file, message));
    let mut records = csv::read(text)
        .map_err(|(line, reason)| {
            let hint =
                "a quoted cell ends with its second quote; a quote inside it is written twice";
            Box::new(error(reason).at(text, line, None).hint(hint))
        })?
        .into_iter();
    let (first, header) = records.next().unwrap_or_default();
    let columns: Vec<String> = header.iter().map(|cell| cell.trim().to_owned()).collect();
    if columns.iter().all(String::is_empty) {
        return Err(Box::new(error("has no header row".into()).hint("name the columns in line 1")));
    }
    for column in &columns {
        let same = columns.iter().filter(|other| other.eq_ignore_ascii_case(column)).count();
        let odd =
            column.contains([' ', ',', ';', '(', ')', '=']) || column.contains(char::is_control);
        let wrong = match column.as_str() {
            "" => "is empty",
            name if name.starts_with("__") => "begins with __, as Sluice's own do",
            _ if same > 1 => "stands twice",
            _ if odd => "holds a blank, a control character or one of ,;()=",
            _ => continue,
        };
        let message = format!("column name {column:?} {wrong}");
        return Err(Box::new(error(message).at(text, first, None)));
    }
    for column in column_types.keys() {
        if !columns.contains(column) {
            let hint = nearest(column, columns.iter().map(String::as_str));
            let message = format!("column_types names `{column}`, which the seed does not have");
            return Err(Box::new(error(message).maybe_hint(hint)));
        }
    }
    let mut cells: Vec<TextRecord> = records.collect();
    // As dbt has it: a cell that says so is null.
    for cell in cells.iter_mut().flat_map(|(_, row)| row).filter(|c| c.eq_ignore_ascii_case("null"))
    {
        cell.clear();
    }
    if let Some((line, row)) = cells.iter().find(|(_, row)| row.len() != columns.len()) {
        let message = format!("row has {} cells, the header has {}", row.len(), columns.len());
        return Err(Box::new(error(message).at(text, *line, None)));
    }
    let types = types(file, &columns, &cells, column_types)?;
    let rows = build(file, text, &columns, &types, &cells)?;
    let declared: Vec<String> = types.iter().map(|t| t.name()).collect();
    let digest = fingerprint(format!("{declared:?}\n{text}").as_bytes());
    Ok(Seed {
        name: TableName::new(SEEDS, name),
        file: file.to_path_buf(),
        rows,
        digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        description: properties.description.clone(),
        columns: properties.columns.clone(),
    })
}

fn types(
    file: &Path,
    columns: &[String],
    cells: &[TextRecord],
    column_types: &BTreeMap<String, String>,
) -> Result<Vec<FieldType>, Box<Diagnostic>> {
    let mut types = Vec::with_capacity(columns.len());
    for (i, column) in columns.iter().enumerate() {
        types.push(match column_types.get(column) {
            None => inferred(cells.iter().map(|(_, row)| row[i].as_str())),
            Some(declared) => field_type(declared).ok_or_else(|| {
                let message = format!("column `{column}`: unknown type `{declared}`");
                let hint = "use text, int, float, decimal(p,s), bool, timestamp or date";
                Box::new(Diagnostic::file(file, message).hint(hint))
            })?,
        });
    }
    Ok(types)
}

/// The narrowest type that every cell of a column fits.
fn inferred<'a>(cells: impl Iterator<Item = &'a str> + Clone) -> FieldType {
    let mut filled = cells.filter(|cell| clean_text(cell).is_some()).peekable();
    if filled.peek().is_none() {
        return FieldType::Text;
    }
    if filled.clone().all(|cell| ["true", "false"].iter().any(|b| cell.eq_ignore_ascii_case(b))) {
        return FieldType::Bool;
    }
    let candidates = [FieldType::Int, FieldType::Float, FieldType::Timestamp, FieldType::Date];
    let fits = |candidate: FieldType| {
        let mut cells = filled.clone();
        cells.all(|cell| {
            let leading_zero = cell.len() > 1 && cell.starts_with('0') && !cell.contains('.');
            let with = if candidate == FieldType::Timestamp { with_seconds(cell) } else { None };
            let cell = with.as_deref().unwrap_or(cell);
            !(candidate.is_number() && leading_zero) && read_text(candidate, cell).is_ok()
        })
    };
    candidates.into_iter().find(|candidate| fits(*candidate)).unwrap_or(FieldType::Text)
}

/// `2026-01-31 12:00` with the seconds that a timestamp has.
fn with_seconds(cell: &str) -> Option<String> {
    let (day, time) = cell.trim().split_once([' ', 'T'])?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'-' || b == b':');
    let is_short = day.len() == 10 && time.len() == 5 && digits(day) && digits(time);
    is_short.then(|| format!("{day} {time}:00"))
}

fn build(
    file: &Path,
    text: &str,
    columns: &[String],
    types: &[FieldType],
    cells: &[TextRecord],
) -> Result<RecordBatch, Box<Diagnostic>> {
    let mut builders: Vec<ColumnBuilder> =
        types.iter().map(|t| ColumnBuilder::new(*t, cells.len())).collect();
    for (line, row) in cells {
        for (i, builder) in builders.iter_mut().enumerate() {
            let with = if types[i] == FieldType::Timestamp { with_seconds(&row[i]) } else { None };
            let value =
                read_text(types[i], with.as_deref().unwrap_or(&row[i])).map_err(|cell| {
                    let message = format!(
                        "column `{}`: {cell:?} is not of type {}",
                        columns[i],
                        types[i].name()
                    );
                    Box::new(Diagnostic::file(file, message).at(text, *line, None))
                })?;
            builder.push(&value);
        }
    }
    let fields: Vec<Field> = columns
        .iter()
        .zip(types)
        .map(|(column, data_type)| Field::new(column, data_type.arrow(), true))
        .collect();
    let arrays: Result<Vec<_>, _> = builders.into_iter().map(ColumnBuilder::finish).collect();
    let batch =
        arrays.and_then(|arrays| RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays));
    batch.map_err(|e| Box::new(Diagnostic::file(file, e.to_string())))
}
