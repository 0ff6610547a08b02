//! Rows as a table, CSV, JSON lines or an Arrow stream.

use std::{io::Write, sync::Arc};

use arrow::{
    array::{Array as _, ArrayRef, RecordBatch, StringArray},
    csv::WriterBuilder,
    datatypes::{Schema, SchemaRef},
    error::ArrowError,
    ipc::writer::StreamWriter,
    json::LineDelimitedWriter,
    util::{
        display::{ArrayFormatter, FormatOptions},
        pretty::pretty_format_batches_with_options,
    },
};
use tokio::time::Instant;

use crate::cli::{Failure, print, query::Format};

const TIME: &str = "%Y-%m-%dT%H:%M:%S%.6fZ";

/// How an answer is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) format: Format,
    /// A table has a line per value instead of a line per row.
    pub(crate) expanded: bool,
    /// A table ends after so many rows.
    pub(crate) rows_max: usize,
    /// The time since then is told with the number of rows.
    pub(crate) timed: Option<Instant>,
}

impl Look {
    /// All rows, nothing else.
    pub(crate) fn plain(format: Format) -> Self {
        Self { format, expanded: false, rows_max: usize::MAX, timed: None }
    }
}

/// Writes batches as they come; a table only at the end, since its widths depend on all rows.
pub(crate) struct Writer<'a> {
    look: Look,
    sink: &'a mut (dyn Write + Send),
    rows: usize,
    kept: Vec<RecordBatch>,
    arrow: Option<StreamWriter<Vec<u8>>>,
    headed: bool,
    /// There are more rows than the table takes.
    is_full: bool,
    is_abandoned: bool,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(look: Look, sink: &'a mut (dyn Write + Send)) -> Self {
        let (kept, arrow) = (Vec::new(), None);
        let (headed, is_full, is_abandoned) = (false, false, false);
        Self { look, sink, rows: 0, kept, arrow, headed, is_full, is_abandoned }
    }

    /// Whether no more rows are wanted: the table is full, or the reader went away (`| head`).
    pub(crate) fn is_done(&self) -> bool {
        self.is_full || self.is_abandoned
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        let room = match self.look.format {
            Format::Table => self.look.rows_max - self.rows,
            _ => usize::MAX,
        };
        self.is_full = batch.num_rows() > room;
        self.rows += batch.num_rows().min(room);
        match self.look.format {
            Format::Table => {
                self.kept.push(batch.slice(0, batch.num_rows().min(room)));
                Ok(())
            }
            Format::Csv => self.csv(batch),
            Format::Json => {
                let mut lines = LineDelimitedWriter::new(Vec::new());
                lines.write(batch).map_err(unwritable)?;
                lines.finish().map_err(unwritable)?;
                self.put(&lines.into_inner())
            }
            Format::Arrow => {
                self.stream(batch.schema_ref())?.write(batch).map_err(unwritable)?;
                self.forward()
            }
        }
    }

    /// Ends the output; without any rows there is still a header or a schema.
    /// Whether anybody still reads.
    pub(crate) fn finish(mut self, schema: Option<&SchemaRef>) -> Result<bool, Failure> {
        let empty = SchemaRef::new(Schema::empty());
        let schema = schema.unwrap_or(&empty);
        match self.look.format {
            Format::Table => {
                if self.kept.is_empty() {
                    self.kept.push(RecordBatch::new_empty(SchemaRef::clone(schema)));
                }
                let text = self.table(schema).map_err(unwritable)?;
                let summary = self.summary();
                self.put(format!("{text}\n{summary}\n").as_bytes())?;
            }
            Format::Csv if !self.headed => {
                self.csv(&RecordBatch::new_empty(SchemaRef::clone(schema)))?
            }
            Format::Csv | Format::Json => {}
            Format::Arrow => {
                self.stream(schema)?.finish().map_err(unwritable)?;
                self.forward()?;
            }
        }
        if self.look.format != Format::Table && self.look.timed.is_some() {
            print::note(self.summary());
        }
        let flushed = self.sink.flush();
        self.told(flushed)?;
        Ok(!self.is_abandoned)
    }

    fn table(&self, schema: &Schema) -> Result<String, ArrowError> {
        let options = FormatOptions::default().with_null("NULL").with_display_error(true);
        if schema.fields().is_empty() {
            Ok("(no columns)".to_owned())
        } else if self.look.expanded {
            expanded(&self.kept, &options)
        } else {
            Ok(pretty_format_batches_with_options(&self.kept, &options)?.to_string())
        }
    }

    /// How many rows were written, and how long it took.
    fn summary(&self) -> String {
        let noun = if self.rows == 1 { "row" } else { "rows" };
        let first = if self.is_full { "the first " } else { "" };
        let time = self.look.timed.map_or_else(String::new, |started| {
            format!(" in {} ms", started.elapsed().as_millis())
        });
        let hint = if self.is_full { r"; \format csv shows all, a LIMIT fewer" } else { "" };
        format!("{first}{} {noun}{time}{hint}", self.rows)
    }

    fn csv(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        let mut lines = WriterBuilder::new()
            .with_header(!self.headed)
            .with_timestamp_tz_format(TIME.to_owned())
            .with_timestamp_format(TIME.to_owned())
            .build(Vec::new());
        lines.write(&flat(batch).map_err(unwritable)?).map_err(unwritable)?;
        self.headed = true;
        self.put(&lines.into_inner())
    }

    fn stream(&mut self, schema: &Schema) -> Result<&mut StreamWriter<Vec<u8>>, Failure> {
        let writer = match self.arrow.take() {
            Some(writer) => writer,
            None => StreamWriter::try_new(Vec::new(), schema).map_err(unwritable)?,
        };
        Ok(self.arrow.insert(writer))
    }

    /// Passes on what the Arrow writer has written.
    fn forward(&mut self) -> Result<(), Failure> {
        let Some(writer) = &mut self.arrow else { return Ok(()) };
        let bytes = std::mem::take(writer.get_mut());
        self.put(&bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.sink.write_all(bytes);
        self.told(written)
    }

    /// A reader that went away is not a failure.
    fn told(&mut self, written: std::io::Result<()>) -> Result<(), Failure> {
        match written {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                self.is_abandoned = true;
                Ok(())
            }
            written => written.map_err(|error| Failure::work(format!("write the rows: {error}"))),
        }
    }
}

/// Each row as a list of its values.
fn expanded(batches: &[RecordBatch], options: &FormatOptions<'_>) -> Result<String, ArrowError> {
    let mut lines = Vec::new();
    let mut number = 0_usize;
    for batch in batches {
        let schema = batch.schema();
        let width = schema.fields().iter().map(|f| f.name().chars().count()).max().unwrap_or(0);
        let columns = batch.columns().iter();
        let values: Vec<ArrayFormatter<'_>> =
            columns.map(|c| ArrayFormatter::try_new(c, options)).collect::<Result<_, _>>()?;
        for row in 0..batch.num_rows() {
            number += 1;
            lines.push(format!("-- row {number}"));
            for (field, value) in schema.fields().iter().zip(&values) {
                lines.push(format!("{:width$} | {}", field.name(), value.value(row)));
            }
        }
    }
    Ok(lines.join("\n"))
}

fn unwritable(error: ArrowError) -> Failure {
    Failure::work(format!("these rows cannot be written in this format ({error}): try another"))
}

/// CSV has no lists and structs: they become JSON text.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    if batch.schema().fields().iter().all(|field| !field.data_type().is_nested()) {
        return Ok(batch.clone());
    }
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let column =
            if field.data_type().is_nested() { json_text(column)? } else { Arc::clone(column) };
        columns.push((field.name().clone(), column));
    }
    RecordBatch::try_from_iter(columns)
}

fn json_text(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let one = RecordBatch::try_from_iter([("value", Arc::clone(column))])?;
    let mut lines = LineDelimitedWriter::new(Vec::new());
    lines.write(&one)?;
    lines.finish()?;
    let bytes = lines.into_inner();
    let values = bytes.split(|byte| *byte == b'\n').take(column.len()).map(|line| {
        let object: serde_json::Value = serde_json::from_slice(line).ok()?;
        object.get("value").map(ToString::to_string)
    });
    Ok(Arc::new(values.collect::<StringArray>()))
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Int64Array, ListBuilder, StringBuilder, TimestampMicrosecondArray},
        ipc::reader::StreamReader,
    };

    use super::*;

    fn batch() -> RecordBatch {
        let at = TimestampMicrosecondArray::from(vec![1_500_000, 0]).with_timezone("UTC");
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from(vec![Some(1), None]))),
            ("text", Arc::new(StringArray::from(vec!["a \"quote\", and", "x\ny"]))),
            ("at", Arc::new(at)),
        ];
        RecordBatch::try_from_iter(columns).expect("batch")
    }

    fn written(format: Format, batches: &[RecordBatch]) -> Vec<u8> {
        written_as(Look::plain(format), batches)
    }

    fn written_as(look: Look, batches: &[RecordBatch]) -> Vec<u8> {
        let mut sink = Vec::new();
        let mut writer = Writer::new(look, &mut sink);
        for batch in batches {
            writer.write(batch).expect("written");
        }
        writer.finish(Some(&batch().schema())).expect("finished");
        sink
    }

    fn text(format: Format, batches: &[RecordBatch]) -> String {
        String::from_utf8(written(format, batches)).expect("text")
    }

    #[test]
    fn csv_quotes_and_has_one_header() {
        assert_eq!(
            text(Format::Csv, &[batch().slice(0, 1), batch().slice(1, 1)]),
            "id,text,at\n1,\"a \"\"quote\"\", and\",1970-01-01T00:00:01.500000Z\n\
             ,\"x\ny\",1970-01-01T00:00:00.000000Z\n"
        );
        assert_eq!(text(Format::Csv, &[]), "id,text,at\n");
    }

    #[test]
    fn lists_are_json_in_csv() {
        let mut rules = ListBuilder::new(StringBuilder::new());
        rules.append_value([Some("a"), Some("b,c")]);
        rules.append_null();
        let rules: ArrayRef = Arc::new(rules.finish());
        let batch = RecordBatch::try_from_iter([("rules", rules)]).expect("batch");
        assert_eq!(text(Format::Csv, &[batch]), "rules\n\"[\"\"a\"\",\"\"b,c\"\"]\"\n\"\"\n");
    }

    #[test]
    fn json_is_one_object_per_line() {
        assert_eq!(
            text(Format::Json, &[batch()]),
            "{\"id\":1,\"text\":\"a \\\"quote\\\", and\",\"at\":\"1970-01-01T00:00:01.500Z\"}\n\
             {\"text\":\"x\\ny\",\"at\":\"1970-01-01T00:00:00Z\"}\n"
        );
        assert_eq!(text(Format::Json, &[]), "");
    }

    #[test]
    fn a_table_without_columns_says_so() {
        use arrow::array::RecordBatchOptions;
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let empty = SchemaRef::new(Schema::empty());
        let batch = RecordBatch::try_new_with_options(SchemaRef::clone(&empty), vec![], &options);
        let mut sink = Vec::new();
        let mut writer = Writer::new(Look::plain(Format::Table), &mut sink);
        writer.write(&batch.expect("batch")).expect("written");
        writer.finish(Some(&empty)).expect("finished");
        assert_eq!(sink, b"(no columns)\n3 rows\n");
    }

    /// A pipe whose reader took so many bytes.
    struct Head(usize);

    impl Write for Head {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_seen_enough_ends_the_answer() {
        let mut head = Head(100);
        let mut writer = Writer::new(Look::plain(Format::Csv), &mut head);
        writer.write(&batch()).expect("written");
        assert!(!writer.is_done());
        writer.write(&batch()).expect("no failure");
        assert!(writer.is_done());
    }

    #[test]
    fn a_table_that_is_full_says_so() {
        let look = Look { rows_max: 3, ..Look::plain(Format::Table) };
        let shown =
            |batches: &[RecordBatch]| String::from_utf8(written_as(look, batches)).expect("text");
        let two = shown(&[batch(), batch().slice(0, 1)]);
        assert!(two.ends_with("\n3 rows\n"), "{two}");
        let four = shown(&[batch(), batch()]);
        assert!(
            four.ends_with("\nthe first 3 rows; \\format csv shows all, a LIMIT fewer\n"),
            "{four}"
        );
        let csv = Look { rows_max: 1, ..Look::plain(Format::Csv) };
        let csv = String::from_utf8(written_as(csv, &[batch()])).expect("text");
        assert_eq!(csv.lines().count(), 4, "only tables are cut: {csv}");
    }

    #[test]
    fn an_expanded_table_has_a_line_per_value() {
        let look = Look { expanded: true, ..Look::plain(Format::Table) };
        let shown = String::from_utf8(written_as(look, &[batch().slice(0, 1)])).expect("text");
        let expected = "-- row 1\nid   | 1\ntext | a \"quote\", and\n\
                        at   | 1970-01-01T00:00:01.500Z\n1 row\n";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_table_counts_its_rows_and_shows_nulls() {
        let table = text(Format::Table, &[batch()]);
        assert!(table.contains("| NULL |"), "{table}");
        assert!(table.ends_with("\n2 rows\n"), "{table}");
        assert!(text(Format::Table, &[]).ends_with("\n0 rows\n"));
        assert!(text(Format::Table, &[]).contains("| id | text | at |"));
    }

    #[test]
    fn arrow_is_a_stream_that_can_be_read_back() {
        let bytes = written(Format::Arrow, &[batch(), batch()]);
        let read: Vec<RecordBatch> = StreamReader::try_new(&*bytes, None)
            .expect("stream")
            .map(|b| b.expect("batch"))
            .collect();
        assert_eq!(read, [batch(), batch()]);
        let empty = written(Format::Arrow, &[]);
        let reader = StreamReader::try_new(&*empty, None).expect("stream");
        assert_eq!(reader.schema(), batch().schema());
    }
}
