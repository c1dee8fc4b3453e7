//! Plugin files that arrive in pieces: one at a time per client, on the disk and not in memory.

use std::{
    collections::HashMap,
    io::Write,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tempfile::NamedTempFile;

use crate::{ids::ConnId, plugin::LARGEST};

/// Clients that send a file at the same time: people do that one by one, and each may fill a disk.
const AT_ONCE: usize = 4;

/// What has arrived so far.
#[derive(Debug)]
pub(super) struct Upload {
    name: String,
    file: NamedTempFile,
    size: u64,
}

/// Of all clients.
#[derive(Debug, Default)]
pub(super) struct Uploads(Mutex<HashMap<ConnId, Upload>>);

// === impl Uploads ===

impl Uploads {
    /// Begins a file, in place of one that this client did not finish.
    pub(super) fn begin(&self, client: ConnId, name: &str, file: NamedTempFile) -> Result<(), String> {
        let mut uploads = self.uploads();
        if uploads.len() >= AT_ONCE && !uploads.contains_key(&client) {
            return Err(format!("{AT_ONCE} clients are sending files already: try again when they are done"));
        }
        uploads.insert(client, Upload { name: name.to_owned(), file, size: 0 });
        Ok(())
    }

    /// Appends a piece; says how many bytes there are then. What does not fit ends the upload.
    pub(super) fn append(&self, client: ConnId, name: &str, offset: u64, piece: &[u8]) -> Result<u64, String> {
        let mut upload = self.take(client, name)?;
        if upload.size != offset {
            return Err(format!("a piece for byte {offset} came when byte {} was next: begin again", upload.size));
        }
        upload.size += piece.len() as u64;
        if upload.size > LARGEST {
            return Err(format!("the file has more than {LARGEST} bytes, which no plugin has"));
        }
        upload.file.write_all(piece).map_err(|error| format!("the file cannot be written: {error}"))?;
        let size = upload.size;
        self.uploads().insert(client, upload);
        Ok(size)
    }

    /// The whole file; nothing is left of it here.
    pub(super) fn finish(&self, client: ConnId, name: &str) -> Result<NamedTempFile, String> {
        self.take(client, name).map(|upload| upload.file)
    }

    /// The client is gone: so is what it did not finish.
    pub(super) fn forget(&self, client: ConnId) {
        self.uploads().remove(&client);
    }

    fn take(&self, client: ConnId, name: &str) -> Result<Upload, String> {
        let upload = self.uploads().remove(&client).filter(|upload| upload.name == name);
        upload.ok_or_else(|| format!("nothing of {name} has been sent: begin with a piece for byte 0"))
    }

    fn uploads(&self) -> MutexGuard<'_, HashMap<ConnId, Upload>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> NamedTempFile {
        NamedTempFile::new().unwrap()
    }

    #[test]
    fn pieces_come_in_order_and_make_one_file() {
        let uploads = Uploads::default();
        uploads.begin(ConnId(1), "a", file()).unwrap();
        assert_eq!(uploads.append(ConnId(1), "a", 0, b"one "), Ok(4));
        assert_eq!(uploads.append(ConnId(1), "a", 4, b"two"), Ok(7));
        let whole = uploads.finish(ConnId(1), "a").unwrap();
        assert_eq!(std::fs::read(whole.path()).unwrap(), b"one two");
        assert!(uploads.finish(ConnId(1), "a").is_err(), "it is handed out once");
    }

    #[test]
    fn a_piece_that_does_not_fit_ends_the_upload_and_one_that_left_leaves_nothing() {
        let uploads = Uploads::default();
        uploads.begin(ConnId(1), "a", file()).unwrap();
        assert!(uploads.append(ConnId(1), "a", 3, b"x").is_err());
        assert!(uploads.append(ConnId(1), "a", 0, b"x").is_err(), "it has to begin again");
        let left = file();
        let path = left.path().to_owned();
        uploads.begin(ConnId(2), "a", left).unwrap();
        uploads.forget(ConnId(2));
        assert!(!path.exists());
    }

    #[test]
    fn only_some_clients_send_at_the_same_time() {
        let uploads = Uploads::default();
        for client in 0..AT_ONCE as u64 {
            uploads.begin(ConnId(client), "a", file()).unwrap();
        }
        assert!(uploads.begin(ConnId(99), "a", file()).is_err());
        uploads.begin(ConnId(0), "b", file()).unwrap();
    }
}
