//! The file in `damaged/` that a repair moves bad lines to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use broker_core::storage::StorageError;
use broker_core::storage::check::{SIDE_ENDING, SIDE_FOLDER, SideRecord};
use durable_files::{DataFile, Files, OpenMode, read_full};

use crate::check::trouble;
use crate::error::JsonLogError;

/// The bytes gathered before a write, and the most bytes of a bad line in one record of the side file.
const CHUNK: usize = 256 << 10;

/// A new file, written through a buffer.
pub(crate) struct Output {
    pub(crate) path: PathBuf,
    file: Arc<dyn DataFile>,
    pub(crate) buffer: Vec<u8>,
    written: u64,
}

impl Output {
    pub(crate) fn create(files: &dyn Files, path: PathBuf) -> Result<Self, StorageError> {
        let file = files.open(&path, OpenMode::CreateNew).map_err(trouble("create", &path))?;
        Ok(Self { path, file, buffer: Vec::new(), written: 0 })
    }

    pub(crate) fn flush(&mut self) -> Result<(), StorageError> {
        self.file.write_all_at(&self.buffer, self.written).map_err(trouble("write to", &self.path))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    pub(crate) fn flush_if_full(&mut self) -> Result<(), StorageError> {
        if self.buffer.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    pub(crate) fn finish(&mut self) -> Result<(), StorageError> {
        self.flush()?;
        self.file.sync().map_err(trouble("sync", &self.path))
    }
}

/// The file of lines moved out; created with the first line.
pub(crate) struct SideFile<'r> {
    files: &'r dyn Files,
    folder: PathBuf,
    /// Its path relative to the data directory, for the notes in the log.
    pub(crate) name: String,
    path: PathBuf,
    output: Option<Output>,
    pub(crate) records: u64,
}

impl<'r> SideFile<'r> {
    pub(crate) fn create(files: &'r dyn Files, dir: &Path) -> Result<Self, StorageError> {
        let folder = dir.join(SIDE_FOLDER);
        let taken = match files.list(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(JsonLogError::io("list", &folder, source).into()),
        };
        let number = |name: &std::ffi::OsStr| name.to_str()?.strip_suffix(SIDE_ENDING)?.parse::<u64>().ok();
        let next = taken.iter().filter_map(|entry| number(&entry.name)).max().map_or(1, |last| last.saturating_add(1));
        let name = format!("{next:06}{SIDE_ENDING}");
        let path = folder.join(&name);
        Ok(Self { files, folder, name: format!("{SIDE_FOLDER}/{name}"), path, output: None, records: 0 })
    }

    /// Copies a range of a segment.
    pub(crate) fn take(
        &mut self,
        from: &Path,
        file: &dyn DataFile,
        offset: u64,
        len: u64,
        what: &str,
    ) -> Result<(), StorageError> {
        if self.output.is_none() {
            self.files.create_dir(&self.folder).map_err(trouble("create", &self.folder))?;
            self.output = Some(Output::create(self.files, self.path.clone())?);
        }
        let Some(output) = &mut self.output else { return Ok(()) };
        let name = from.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut bytes = vec![0; CHUNK.min(usize::try_from(len).unwrap_or(CHUNK))];
        let mut done = 0;
        while done < len {
            let room = bytes.len().min(usize::try_from(len - done).unwrap_or(CHUNK));
            let read = read_full(file, &mut bytes[..room], offset + done).map_err(trouble("read", from))?;
            if read == 0 {
                break;
            }
            let at = (offset + done).to_string();
            SideRecord { file: &name, at: &at, what, bytes: &bytes[..read] }.encode(&mut output.buffer);
            output.flush_if_full()?;
            done += read as u64;
        }
        self.records += 1;
        Ok(())
    }

    /// Makes the file durable; returns its path, or `None` if nothing was moved out.
    pub(crate) fn finish(mut self) -> Result<Option<PathBuf>, StorageError> {
        let Some(mut output) = self.output.take() else { return Ok(None) };
        output.finish()?;
        self.files.sync_dir(&self.folder).map_err(trouble("sync", &self.folder))?;
        Ok(Some(self.path))
    }
}
