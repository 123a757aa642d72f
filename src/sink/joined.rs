//! A single file that is made in units. The units are staged as Arrow files in a hidden folder beside the file, like those of
//! an output folder; once all are done, their rows are written to the file in order. Not here: the file itself ([`Sink`]), and
//! how units become durable (`units`).
//!
//! ```text
//! .x.parquet.hfauto-units/_hfauto/…   the units, until the file is complete
//! .x.parquet.hfauto-tmp               the file while it is written
//! x.parquet
//! ```

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;

use super::commit::{ATTEMPTS, CLAIMS, STAGED, UNITS, staged_name};
use super::storage::Storage;
use super::units::UnitOutput;
use super::{UnitKey, WrittenPart};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::guarded;

/// The bytes of an Arrow file before its first message.
const MAGIC: &[u8; 8] = b"ARROW1\0\0";

impl UnitOutput {
    /// Visits the rows of `units`, which must be done, in order. For the staged units of a single file.
    ///
    /// # Errors
    /// `Sink` if a part cannot be read; those of `give`.
    pub(crate) fn each_batch(
        &self,
        units: &[UnitKey],
        give: &mut dyn FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<()> {
        for unit in units {
            let files = self.files_of(&unit.id).ok_or_else(|| {
                let message = format!("a unit of `{}` was not computed", unit.input);
                Error::new(ErrorKind::Internal, message)
            })?;
            for part in files {
                read_part(self.storage(), part, self.schema(), give)?;
            }
        }
        Ok(())
    }

    /// Removes the output with everything that was staged.
    ///
    /// # Errors
    /// `Sink` if the disk fails.
    pub(crate) fn remove(mut self) -> Result<()> {
        for folder in [UNITS, ATTEMPTS, CLAIMS, STAGED] {
            self.storage().remove_folder(folder)?;
        }
        self.end();
        self.storage().remove_if_empty("");
        Ok(())
    }
}

fn read_part(
    storage: &dyn Storage,
    part: &WrittenPart,
    schema: &SchemaRef,
    give: &mut dyn FnMut(&RecordBatch) -> Result<()>,
) -> Result<()> {
    let name = format!("{STAGED}/{}", staged_name(part));
    let shown = storage.shown(&name);
    let damaged = || {
        Error::new(ErrorKind::Sink, format!("`{}` is damaged", shown.display()))
            .hint("remove its folder and run again")
    };
    let reader = storage.reader(&name)?.ok_or_else(damaged)?;
    let mut reader = BufReader::with_capacity(1 << 18, reader);
    let mut magic = [0; MAGIC.len()];
    let is_file = reader.read_exact(&mut magic).is_ok() && magic == *MAGIC;
    skip_padding(&mut reader).map_err(|error| damaged().source(error))?;
    let mut rows = 0;
    if is_file {
        // The messages of a file are those of a stream, before a footer that is not needed.
        let mut batches = StreamReader::try_new(reader, None).map_err(|e| damaged().source(e))?;
        loop {
            let batch = guarded(ErrorKind::Sink, "a staged part", || Ok(batches.next()))?;
            let Some(batch) = batch else { break };
            let batch = batch.map_err(|error| damaged().source(error))?;
            rows += batch.num_rows() as u64;
            give(&conform(&batch, schema).map_err(|error| damaged().source(error))?)?;
        }
    }
    if rows == part.rows { Ok(()) } else { Err(damaged()) }
}

/// Skips zeros: a message begins with another byte.
fn skip_padding(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let ready = reader.fill_buf()?;
        let zeros = ready.iter().take_while(|byte| **byte == 0).count();
        let is_end = ready.is_empty() || zeros < ready.len();
        reader.consume(zeros);
        if is_end {
            return Ok(());
        }
    }
}

/// The rows with the types of the output: Arrow files hold dictionaries as plain values.
fn conform(
    batch: &RecordBatch,
    schema: &SchemaRef,
) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
    let column = |(column, field): (&ArrayRef, &arrow::datatypes::FieldRef)| {
        if column.data_type() == field.data_type() {
            Ok(Arc::clone(column))
        } else {
            cast(column, field.data_type())
        }
    };
    let columns = batch.columns().iter().zip(schema.fields()).map(column).collect::<Result<_, _>>();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns?, &options)
}
