//! The files in `damaged/` that a repair moves records to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use broker_core::storage::check::{SIDE_ENDING, SIDE_FOLDER, SideRecord};
use durable_files::{FileError, SystemFiles, create_dir, sync_dir};

/// The file of records moved out; created with the first record.
pub struct SideFile {
    folder: PathBuf,
    /// The number at the start of its file name.
    number: u64,
    output: Option<(PathBuf, BufWriter<File>)>,
    records: u64,
}

impl SideFile {
    /// The next side file in the data directory `dir`.
    ///
    /// # Errors
    /// When the folder cannot be listed.
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

    /// Appends a record that is moved out.
    ///
    /// # Errors
    /// The operating system's.
    pub fn take(&mut self, record: SideRecord<'_>) -> Result<(), FileError> {
        if self.output.is_none() {
            create_dir(&SystemFiles, &self.folder)?;
            let path = self.folder.join(format!("{:06}{SIDE_ENDING}", self.number));
            let file = OpenOptions::new().write(true).create_new(true).open(&path);
            let file = file.map_err(|source| FileError::io("create", &path, source))?;
            self.output = Some((path, BufWriter::new(file)));
        }
        let Some((path, output)) = &mut self.output else { return Ok(()) };
        let mut line = Vec::new();
        record.encode(&mut line);
        self.records += 1;
        output.write_all(&line).map_err(|source| FileError::io("write to", path, source))
    }

    /// Keeps `what`, a file or the files of a folder, under `name`: by hard links, or by copies if the file system has no links.
    ///
    /// # Errors
    /// The operating system's.
    pub fn keep(&self, what: &Path, name: &str) -> Result<PathBuf, FileError> {
        create_dir(&SystemFiles, &self.folder)?;
        let target = self.folder.join(format!("{:06}.{name}", self.number));
        if what.is_dir() {
            create_dir(&SystemFiles, &target)?;
            let entries = fs::read_dir(what).map_err(|source| FileError::io("list", what, source))?;
            for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
                keep_file(&entry.path(), &target.join(entry.file_name()))?;
            }
            sync_dir(&SystemFiles, &target)?;
        } else {
            keep_file(what, &target)?;
        }
        sync_dir(&SystemFiles, &self.folder)?;
        Ok(target)
    }

    /// The number of records moved out.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Makes the file durable; returns its path, or `None` if nothing was moved out.
    ///
    /// # Errors
    /// The operating system's.
    pub fn finish(&mut self) -> Result<Option<PathBuf>, FileError> {
        let Some((path, mut output)) = self.output.take() else { return Ok(None) };
        let synced = output.flush().and_then(|()| output.get_ref().sync_all());
        synced.map_err(|source| FileError::io("write to", &path, source))?;
        sync_dir(&SystemFiles, &self.folder)?;
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
