//! A disk that is soon full: a small file system in memory, gone when it is dropped.
//!
//! Mounting takes root. Where the tests are somebody else, the mount is made inside a user namespace that a sleeping
//! process holds, and reached through that process. A machine that allows neither fails the test.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A mounted directory of a bounded size.
pub struct SmallDisk {
    path: PathBuf,
    holder: Option<Child>,
    _directory: tempfile::TempDir,
}

impl SmallDisk {
    /// Of so many MiB.
    pub fn new(mebibytes: u64) -> SmallDisk {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={mebibytes}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory.path()).output();
        if mounted.as_ref().is_ok_and(|output| output.status.success()) {
            return SmallDisk { path: directory.path().to_owned(), holder: None, _directory: directory };
        }
        let script = format!("mount -t tmpfs -o {options} tmpfs '{}' && echo mounted && exec cat", directory.path().display());
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a small disk takes root, or unshare(1)");
        let mut word = [0; 8];
        let held = std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut word);
        assert!(held.is_ok() && &word == b"mounted\n", "a small disk takes root, or user namespaces: {mounted:?}");
        let path = PathBuf::from(format!("/proc/{}/root{}", holder.id(), directory.path().display()));
        SmallDisk { path, holder: Some(holder), _directory: directory }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.path).unwrap();
        disk.f_bavail * disk.f_frsize
    }

    /// Fills it with a file until only so many bytes are free.
    pub fn fill(&self, leave: u64) {
        let mut file = File::options().create(true).append(true).open(self.path.join("filler")).unwrap();
        while self.free() > leave {
            let size = (self.free() - leave).min(64 << 10) as usize;
            if file.write_all(&vec![7; size.max(1)]).is_err() {
                break;
            }
        }
    }

    /// Makes room again.
    pub fn empty(&self) {
        std::fs::remove_file(self.path.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        match &mut self.holder {
            Some(holder) => {
                drop(holder.stdin.take());
                let _ = holder.wait();
            }
            None => {
                // Lazily, where a file is still open in a process that is just ending.
                let _ = Command::new("umount").arg("-l").arg(&self.path).status();
            }
        }
    }
}
