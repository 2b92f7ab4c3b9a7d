//! `herald fsck` for any embedded database: the lock, and the rounds of a repair.

use std::path::Path;

use broker_core::storage::check::{Check, Checked, Finding, Inspector, Repaired};
use broker_core::storage::{StorageError, StorageErrorKind};
use durable_files::{Lock, SystemFiles};

use crate::storage::Database;

/// The most rounds of a repair: removing one damage can reveal another.
const ROUNDS: u32 = 4;

/// An embedded database that can be checked and repaired while no broker uses it.
pub trait Examine: Database {
    /// The kind of repair that a check has found necessary.
    type Method;

    /// The data directory.
    fn dir(config: &Self::Config) -> &Path;

    /// Checks the settings, and that the directory exists and belongs to this storage. Called under the lock, if a lock file exists.
    ///
    /// # Errors
    /// Those of [`EmbeddedCheck::open`].
    fn look(config: &Self::Config) -> Result<(), StorageError>;

    /// Reports damage and changes nothing.
    ///
    /// # Errors
    /// Those of [`Check::check`].
    fn examine(config: &Self::Config, inspector: &mut dyn Inspector) -> Result<(Checked, Self::Method), StorageError>;

    /// Repairs the damage that [`Examine::examine`] found. Called under the lock.
    ///
    /// # Errors
    /// Those of [`Check::repair`].
    fn repair(
        config: &Self::Config,
        method: Self::Method,
        inspector: &mut dyn Inspector,
    ) -> Result<Repaired, StorageError>;
}

/// Checks and repairs a database that no broker uses.
#[derive(Debug)]
pub struct EmbeddedCheck<D: Database> {
    config: D::Config,
    /// `None` if no broker has ever used the directory: there is no lock file.
    lock: Option<Lock>,
}

impl<D: Examine> EmbeddedCheck<D> {
    /// Locks the directory without leaving a trace in it.
    ///
    /// # Errors
    /// `Locked`: a broker uses it. `Unusable`: it belongs to another kind of storage or a newer release. `Failed`: it is missing or
    /// cannot be read.
    pub fn open(config: D::Config) -> Result<Self, StorageError> {
        let lock = Lock::acquire_existing(&SystemFiles, D::dir(&config))?;
        D::look(&config)?;
        Ok(Self { config, lock })
    }
}

impl<D: Examine> Check for EmbeddedCheck<D>
where
    D::Config: Send,
{
    fn kind(&self) -> &'static str {
        D::KIND
    }

    fn check(&mut self, inspector: &mut dyn Inspector) -> Result<Checked, StorageError> {
        D::examine(&self.config, inspector).map(|(checked, _)| checked)
    }

    fn repair(&mut self, inspector: &mut dyn Inspector) -> Result<Repaired, StorageError> {
        let dir = D::dir(&self.config);
        // The check's lock leaves no trace; a repair creates and signs the lock file, like a broker.
        drop(self.lock.take());
        let mut lock = Lock::acquire(&SystemFiles, dir)?;
        lock.sign()?;
        let mut repaired = Repaired::default();
        for _round in 0..ROUNDS {
            let (checked, method) = D::examine(&self.config, &mut Unheard)?;
            if checked.damage == 0 {
                self.lock = Some(lock);
                return Ok(repaired);
            }
            let round = D::repair(&self.config, method, inspector)?;
            repaired.records += round.records;
            repaired.side_files.extend(round.side_files);
        }
        let dir = dir.display();
        let text = format!(
            "{dir} still has damage after the repair, which is a bug in Herald; run `herald fsck` to see what is left (the records moved out are in {dir}/damaged)"
        );
        Err(StorageError::new(StorageErrorKind::Unusable, text))
    }
}

/// Drops the findings of a repair's own checks: the check before the repair reported them.
struct Unheard;

impl Inspector for Unheard {
    fn finding(&mut self, _finding: Finding) {}
}
