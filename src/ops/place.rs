//! The data directory: private, on a disk of this machine, used by one process.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be made or opened.
    #[error("{0}: {1}")]
    Io(String, #[source] std::io::Error),
    /// A network file system.
    #[error(
        "{0} is on a network file system ({1}), where SQLite's locks and syncs are not reliable; put the data on a disk of this machine, or insist with --allow-network-fs"
    )]
    Network(String, &'static str),
    /// Another appliance uses it.
    #[error("{0} is in use by another running backroom")]
    InUse(String),
}

/// Makes the directory, for its owner alone, and refuses network file systems.
pub fn prepare(directory: &Path, allow_network: bool) -> Result<(), Error> {
    let io = |e| Error::Io(directory.display().to_string(), e);
    if !directory.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
    }
    match network(directory) {
        Some(kind) if !allow_network => Err(Error::Network(directory.display().to_string(), kind)),
        _ => Ok(()),
    }
}

/// The kind of network file system under a path, by the magic numbers of statfs(2).
pub fn network(path: &Path) -> Option<&'static str> {
    const KINDS: [(u64, &str); 8] = [
        (0x6969, "NFS"),
        (0x517b, "SMB"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB2"),
        (0x0102_1997, "9P"),
        (0x5346_414f, "AFS"),
        (0x00c3_6400, "Ceph"),
        (0x0bd0_0bd0, "Lustre"),
    ];
    let found = rustix::fs::statfs(path).ok()?.f_type as u64 & 0xffff_ffff;
    KINDS.iter().find(|(magic, _)| *magic == found).map(|(_, kind)| *kind)
}

/// Holds the directory until it is dropped (or the process ends, however it does).
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held for its lock")] File);

/// Takes the directory for this process.
pub fn lock(directory: &Path) -> Result<Lock, Error> {
    let path = directory.join("backroom.lock");
    let io = |e| Error::Io(path.display().to_string(), e);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(directory.display().to_string())),
        Err(TryLockError::Error(e)) => Err(io(e)),
    }
}

/// Bytes free for us and bytes in all.
pub fn space(path: &Path) -> Option<(u64, u64)> {
    let disk = rustix::fs::statvfs(path).ok()?;
    Some((disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize))
}
