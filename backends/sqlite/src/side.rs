//! The files below `damaged/` for what a repair moves out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use broker_core::storage::check::{SIDE_ENDING, SIDE_FOLDER, SideRecord};

use crate::directory::sync as sync_dir;
use crate::error::SqliteError;

/// A file of what is moved out; made when there is something.
pub(crate) struct Side {
    folder: PathBuf,
    /// What its file's name begins with.
    number: u64,
    output: Option<(PathBuf, BufWriter<File>)>,
    pub(crate) records: u64,
}

impl Side {
    /// The next one in the data directory `dir`.
    pub(crate) fn new(dir: &Path) -> Result<Self, SqliteError> {
        let folder = dir.join(SIDE_FOLDER);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => Some(entries),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(SqliteError::io("list", &folder, source)),
        };
        let number = |entry: fs::DirEntry| entry.file_name().to_str()?.get(..6)?.parse::<u64>().ok();
        let last = entries.into_iter().flatten().flatten().filter_map(number).max();
        Ok(Self { folder, number: last.map_or(1, |last| last + 1), output: None, records: 0 })
    }

    /// Makes the folder, if it is not there.
    fn make(&self) -> Result<(), SqliteError> {
        fs::create_dir_all(&self.folder).map_err(|source| SqliteError::io("make", &self.folder, source))?;
        self.folder.parent().map_or(Ok(()), sync_dir)
    }

    /// Writes down what was under a key.
    pub(crate) fn take(&mut self, record: SideRecord<'_>) -> Result<(), SqliteError> {
        if self.output.is_none() {
            self.make()?;
            let path = self.folder.join(format!("{:06}{SIDE_ENDING}", self.number));
            let file = OpenOptions::new().write(true).create_new(true).open(&path);
            let file = file.map_err(|source| SqliteError::io("make", &path, source))?;
            self.output = Some((path, BufWriter::new(file)));
        }
        let Some((path, output)) = &mut self.output else { return Ok(()) };
        let mut line = Vec::new();
        record.encode(&mut line);
        self.records += 1;
        output.write_all(&line).map_err(|source| SqliteError::io("write to", path, source))
    }

    /// Keeps a second name of `file`, or a copy where the file system has no second names.
    pub(crate) fn keep(&self, file: &Path, name: &str) -> Result<PathBuf, SqliteError> {
        self.make()?;
        let target = self.folder.join(format!("{:06}.{name}", self.number));
        let kept = fs::hard_link(file, &target).or_else(|_| {
            fs::copy(file, &target)?;
            File::open(&target)?.sync_all()
        });
        kept.map_err(|source| SqliteError::io("copy to", &target, source))?;
        sync_dir(&self.folder)?;
        Ok(target)
    }

    /// Makes it durable; its path, if there was anything.
    pub(crate) fn finish(&mut self) -> Result<Option<PathBuf>, SqliteError> {
        let Some((path, mut output)) = self.output.take() else { return Ok(None) };
        let synced = output.flush().and_then(|()| output.get_ref().sync_all());
        synced.map_err(|source| SqliteError::io("write to", &path, source))?;
        sync_dir(&self.folder)?;
        Ok(Some(path))
    }
}
