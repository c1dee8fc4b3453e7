//! Files beneath a directory, whatever name a peer asks for.
//!
//! Not a plugin: monitorLog and scripts are built with it. The originals join a directory and what came off the wire, so
//! that `../` leads anywhere. Here the kernel resolves the name (`openat2`, Linux 5.6) and refuses what would leave the
//! directory: `..`, absolute names, and symbolic links to the outside. Links that stay inside are followed.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// Opening a pipe or a terminal must not block, or become a controlling terminal.
const CAREFUL: OFlags = OFlags::CLOEXEC.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// A directory that nothing here leaves.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Opens the directory. Its own path comes from the configuration and is trusted.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Root(rustix::fs::open(path.as_ref(), flags, Mode::empty())?))
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// Those of the system; `CrossesDevices` when the name leads out of the directory.
    pub fn file(&self, name: &str) -> io::Result<File> {
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = File::from(rustix::fs::openat2(&self.0, name, OFlags::RDONLY | CAREFUL, Mode::empty(), inside)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(ErrorKind::InvalidInput.into()) }
    }

    /// Reads a whole text of at most `most` bytes.
    ///
    /// # Errors
    /// As for [`Root::file`]; `FileTooLarge`; `InvalidData` when it is not UTF-8.
    pub fn read(&self, name: &str, most: u64) -> io::Result<String> {
        let mut text = String::new();
        self.file(name)?.take(most + 1).read_to_string(&mut text)?;
        if text.len() as u64 > most { Err(ErrorKind::FileTooLarge.into()) } else { Ok(text) }
    }

    /// Writes a whole file that stands directly in the directory: under another name first, so that nobody ever reads
    /// half of it, and a link of this name is replaced and not followed.
    ///
    /// # Errors
    /// Those of the system; `InvalidInput` for a name with a path in it.
    pub fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            return Err(ErrorKind::InvalidInput.into());
        }
        let half = format!(".{name}.new");
        let written = self.write_new(&half, content).and_then(|()| {
            rustix::fs::renameat(&self.0, half.as_str(), &self.0, name)?;
            Ok(())
        });
        // What went wrong is told already, and half a file may not exist at all.
        written.inspect_err(|_| self.remove(&half).unwrap_or_default())
    }

    /// The names of the regular files that stand directly in the directory, sorted. Hidden ones are left out, and those
    /// that are not UTF-8.
    ///
    /// # Errors
    /// Those of the system.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let listed = rustix::fs::openat(&self.0, ".", OFlags::RDONLY | OFlags::DIRECTORY | CAREFUL, Mode::empty())?;
        for entry in Dir::new(listed)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if !name.starts_with('.') && self.file(name).is_ok() {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn write_new(&self, name: &str, content: &[u8]) -> io::Result<()> {
        // What a crash has left.
        self.remove(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | CAREFUL;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        let mut file = File::from(rustix::fs::openat(&self.0, name, flags, mode)?);
        file.write_all(content)?;
        file.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// A root with a file in it, and a secret beside it.
    fn place() -> (TempDir, Root) {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::write(dir.path().join("root/inside.log"), "inside").unwrap();
        std::fs::write(dir.path().join("secret.log"), "secret").unwrap();
        let root = Root::open(dir.path().join("root")).unwrap();
        (dir, root)
    }

    #[test]
    fn a_file_in_the_root_is_read() {
        assert_eq!(place().1.read("inside.log", 6).unwrap(), "inside");
    }

    #[test]
    fn no_name_leads_out_of_the_root() {
        let (dir, root) = place();
        symlink("../secret.log", dir.path().join("root/relative.log")).unwrap();
        symlink(dir.path().join("secret.log"), dir.path().join("root/absolute.log")).unwrap();
        symlink("..", dir.path().join("root/up")).unwrap();
        let absolute = dir.path().join("secret.log");
        let names = [
            "../secret.log",
            "x/../../secret.log",
            absolute.to_str().unwrap(),
            "relative.log",
            "absolute.log",
            "up/secret.log",
        ];
        for name in names {
            assert!(root.file(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_link_that_stays_inside_is_followed() {
        let (dir, root) = place();
        symlink("inside.log", dir.path().join("root/current.log")).unwrap();
        assert_eq!(root.read("current.log", 100).unwrap(), "inside");
    }

    #[test]
    fn a_name_with_a_zero_byte_is_an_error() {
        let (_dir, root) = place();
        assert!(root.file("inside.log\0.txt").is_err());
        assert!(root.replace("a\0b", b"").is_err());
    }

    #[test]
    fn a_directory_or_a_pipe_is_no_file_and_does_not_block() {
        let (dir, root) = place();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("root/pipe"), Mode::RUSR).unwrap();
        for name in ["pipe", "."] {
            assert_eq!(root.file(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_not_read() {
        assert_eq!(place().1.read("inside.log", 5).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_written_file_replaces_a_link_and_leaves_its_target_alone() {
        let (dir, root) = place();
        symlink("../secret.log", dir.path().join("root/link.log")).unwrap();
        root.replace("link.log", b"mine").unwrap();
        assert_eq!(root.read("link.log", 100).unwrap(), "mine");
        assert_eq!(std::fs::read_to_string(dir.path().join("secret.log")).unwrap(), "secret");
        assert_eq!(root.names().unwrap(), ["inside.log", "link.log"]);
    }

    #[test]
    fn nothing_is_written_elsewhere() {
        let (dir, root) = place();
        for name in ["", ".", "..", "../new.log", "/new.log", "sub/new.log"] {
            assert!(root.replace(name, b"x").is_err(), "{name}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(std::fs::read_dir(dir.path().join("root")).unwrap().count(), 1);
    }
}
