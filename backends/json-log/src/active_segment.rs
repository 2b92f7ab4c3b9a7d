//! The active segment: begun with a header and the catalogue, or resumed after recovery.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use broker_core::event::Millis;
use durable_files::{DataFile, OpenMode};

use crate::catalogue::Catalogue;
use crate::error::JsonLogError;
use crate::format::{Header, encode_header};
use crate::segment::Segment;
use crate::shared::Shared;

/// The segment that is being written.
#[derive(Debug)]
pub(crate) struct ActiveSegment {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<dyn DataFile>,
    /// The offset of the next line.
    pub(crate) offset: u64,
    /// The offset after its catalogue.
    pub(crate) begin: u64,
}

impl ActiveSegment {
    /// Writes the header and the catalogue to an empty file and makes them durable, together with the file's name. Only then are
    /// records written, so every segment that has a successor is whole.
    pub(crate) fn begin(
        shared: &Shared,
        file: Arc<dyn DataFile>,
        number: u64,
        catalogue: &Catalogue,
        next_batch: u64,
    ) -> Result<Self, JsonLogError> {
        let path = shared.segments.path(number);
        let oldest = shared.segments.oldest().unwrap_or(number).min(number);
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let created = Millis(u64::try_from(created).unwrap_or_default());
        let mut lines = Vec::new();
        encode_header(&mut lines, &Header { segment: number, created, oldest, next_batch }, catalogue.lines());
        catalogue.encode(&mut lines);
        file.write_all_at(&lines, 0).map_err(|source| JsonLogError::io("write to", &path, source))?;
        file.sync().map_err(|source| JsonLogError::io("sync", &path, source))?;
        let dir = &shared.config.path;
        durable_files::sync_dir(&*shared.files, dir)?;
        let begin = lines.len() as u64;
        let segment = shared.segments.entry(number, begin);
        shared.segments.insert(segment.clone());
        Ok(Self::resume(shared, segment, file, begin))
    }

    /// Resumes at the end of a segment whose catalogue ends at `begin`.
    pub(crate) fn resume(shared: &Shared, segment: Arc<Segment>, file: Arc<dyn DataFile>, begin: u64) -> Self {
        shared.segments.set_begin(begin);
        Self { offset: segment.bytes(), segment, file, begin }
    }

    /// Creates the segment's file and writes its beginning.
    pub(crate) fn create(
        shared: &Shared,
        number: u64,
        catalogue: &Catalogue,
        next_batch: u64,
    ) -> Result<Self, JsonLogError> {
        let path = shared.segments.path(number);
        let file = shared
            .files
            .open(&path, OpenMode::CreateNew)
            .map_err(|source| JsonLogError::io("create", &path, source))?;
        Self::begin(shared, file, number, catalogue, next_batch)
    }
}
