//! The files below `damaged/` for what a repair moves out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use broker_core::storage::check::{SIDE_ENDING, SIDE_FOLDER, SideRecord};

use crate::file_error::{FileError, sync_dir};

/// A file of what is moved out; made when there is something.
pub struct Side {
    folder: PathBuf,
    /// What its file's name begins with.
    number: u64,
    output: Option<(PathBuf, BufWriter<File>)>,
    records: u64,
}

impl Side {
    /// The next one in the data directory `dir`.
    ///
    /// # Errors
    /// When what is there cannot be listed.
    pub fn new(dir: &Path) -> Result<Self, FileError> {
        let folder = dir.join(SIDE_FOLDER);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => Some(entries),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(FileError::io("list", &folder, source)),
        };
        let number = |entry: fs::DirEntry| entry.file_name().to_str()?.get(..6)?.parse::<u64>().ok();
        let last = entries.into_iter().flatten().flatten().filter_map(number).max();
        Ok(Self { folder, number: last.map_or(1, |last| last + 1), output: None, records: 0 })
    }

    /// Makes the folder, if it is not there.
    fn make(&self) -> Result<(), FileError> {
        fs::create_dir_all(&self.folder).map_err(|source| FileError::io("make", &self.folder, source))?;
        self.folder.parent().map_or(Ok(()), sync_dir)
    }

    /// Writes down a record that is moved out.
    ///
    /// # Errors
    /// The operating system's.
    pub fn take(&mut self, record: SideRecord<'_>) -> Result<(), FileError> {
        if self.output.is_none() {
            self.make()?;
            let path = self.folder.join(format!("{:06}{SIDE_ENDING}", self.number));
            let file = OpenOptions::new().write(true).create_new(true).open(&path);
            let file = file.map_err(|source| FileError::io("make", &path, source))?;
            self.output = Some((path, BufWriter::new(file)));
        }
        let Some((path, output)) = &mut self.output else { return Ok(()) };
        let mut line = Vec::new();
        record.encode(&mut line);
        self.records += 1;
        output.write_all(&line).map_err(|source| FileError::io("write to", path, source))
    }

    /// Keeps second names of `what`, a file or the files in a folder, as `name`; copies where the file system has no second names.
    ///
    /// # Errors
    /// The operating system's.
    pub fn keep(&self, what: &Path, name: &str) -> Result<PathBuf, FileError> {
        self.make()?;
        let target = self.folder.join(format!("{:06}.{name}", self.number));
        if what.is_dir() {
            fs::create_dir_all(&target).map_err(|source| FileError::io("make", &target, source))?;
            let entries = fs::read_dir(what).map_err(|source| FileError::io("list", what, source))?;
            for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
                keep_file(&entry.path(), &target.join(entry.file_name()))?;
            }
            sync_dir(&target)?;
        } else {
            keep_file(what, &target)?;
        }
        sync_dir(&self.folder)?;
        Ok(target)
    }

    /// How many records were moved out.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Makes it durable; its path, if there was anything.
    ///
    /// # Errors
    /// The operating system's.
    pub fn finish(&mut self) -> Result<Option<PathBuf>, FileError> {
        let Some((path, mut output)) = self.output.take() else { return Ok(None) };
        let synced = output.flush().and_then(|()| output.get_ref().sync_all());
        synced.map_err(|source| FileError::io("write to", &path, source))?;
        sync_dir(&self.folder)?;
        Ok(Some(path))
    }
}

fn keep_file(from: &Path, to: &Path) -> Result<(), FileError> {
    let kept = fs::hard_link(from, to).or_else(|_| {
        fs::copy(from, to)?;
        File::open(to)?.sync_all()
    });
    kept.map_err(|source| FileError::io("copy to", to, source))
}
