//! From a name in the directory to a candidate: settled, copied, and vetted by a child.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;

use super::{
    Config,
    generation::Candidate,
    lifecycle::Verdict,
    preflight::{Checker, Refused},
    quarantine::Quarantine,
    refusal::Refusal,
    settle::{ContentHash, Unfit, settle},
    stage::Stage,
    trust::Trust,
};
use crate::ids::Generation;

/// How many children vet at a time: one that loops holds a place for [`PREFLIGHT_TIMEOUT`](super::PREFLIGHT_TIMEOUT).
const PREFLIGHTS_AT_ONCE: usize = 16;

/// What vetting needs, for all files.
pub(super) struct Vetter {
    directory: PathBuf,
    pause: Duration,
    checker: Checker,
    trust: Arc<Trust>,
    stage: Arc<Stage>,
    quarantine: Arc<Quarantine>,
    places: Semaphore,
}

impl Vetter {
    /// With a staging directory of its own.
    ///
    /// # Errors
    /// When there can be no such directory.
    pub(super) fn new(config: &Config, quarantine: Arc<Quarantine>) -> io::Result<Vetter> {
        Ok(Vetter {
            directory: config.directory.clone().unwrap_or_default(),
            pause: config.settle,
            checker: config.checker.clone(),
            trust: config.trust.clone(),
            stage: Arc::new(Stage::create(&config.stage_parent)?),
            quarantine,
            places: Semaphore::new(PREFLIGHTS_AT_ONCE),
        })
    }

    /// Waits until the file rests, makes a private copy, and lets a child vet that; unless its content is what is
    /// served, or was refused.
    pub(super) async fn vet(
        &self,
        file: &str,
        serving: Option<ContentHash>,
        refused: Option<ContentHash>,
    ) -> (Verdict, Option<Candidate>) {
        /// Counts the libraries of this process, whichever supervisor they belong to.
        static GENERATIONS: AtomicU64 = AtomicU64::new(1);

        let source = self.directory.join(file);
        let settled = match settle(&source, self.pause, &self.trust).await {
            Ok(Some(settled)) => settled,
            Ok(None) => return (Verdict::Gone, None),
            Err(Unfit { fingerprint, hash, .. }) if hash.is_some() && hash == refused => {
                return (Verdict::StillRefused(fingerprint), None);
            }
            Err(Unfit { fingerprint, hash, refusal }) => {
                return (Verdict::Refused(fingerprint, hash, Refused::from(*refusal)), None);
            }
        };
        let (fingerprint, hash, size) = (settled.fingerprint, settled.hash, settled.fingerprint.size);
        if serving == Some(hash) {
            return (Verdict::Unchanged(fingerprint), None);
        }
        if refused == Some(hash) {
            return (Verdict::StillRefused(fingerprint), None);
        }
        let refuse = |refused: Refused| {
            // What is not trusted today may be tomorrow, without a change of the content.
            let hash = Some(hash).filter(|_| !refused.refusal.is_about_trust());
            (Verdict::Refused(fingerprint, hash, refused), None)
        };
        let trusted = tokio::task::spawn_blocking({
            let trust = self.trust.clone();
            move || trust.content(&source, &settled.content, hash).map(|signed| (settled, signed))
        });
        let (settled, signed) = match trusted.await {
            Ok(Ok(trusted)) => trusted,
            Ok(Err(refusal)) => return refuse(refusal.into()),
            Err(error) => return refuse(Refusal::Unchecked(error.to_string()).into()),
        };
        if let Some(reason) = self.quarantine.is_quarantined(&hash) {
            return refuse(Refusal::Quarantined(reason).into());
        }
        let stem = file.strip_suffix(".so").unwrap_or(file).to_owned();
        let generation = Generation(GENERATIONS.fetch_add(1, Ordering::Relaxed));
        let written = tokio::task::spawn_blocking({
            let (stage, stem) = (self.stage.clone(), stem.clone());
            move || stage.write(&stem, generation, &settled)
        });
        let path = match written.await.map_err(io::Error::from).flatten() {
            Ok(path) => path,
            Err(error) => return refuse(Refusal::Unchecked(format!("its copy cannot be written: {error}")).into()),
        };
        // Never closed.
        let place = self.places.acquire().await;
        let checked = self.checker.check(&path).await;
        drop(place);
        let checked = checked.and_then(|checked| {
            self.trust.manifest(signed.as_ref(), &checked.manifest)?;
            Ok(checked)
        });
        match checked {
            Ok(checked) => {
                let (manifest, facts) = (Arc::new(checked.manifest), checked.facts);
                let candidate = Candidate { stem, generation, path, hash, size, manifest, facts, moved: false };
                (Verdict::Passed(fingerprint), Some(candidate))
            }
            Err(refused) => {
                remove_copy(&path);
                refuse(refused)
            }
        }
    }
}

/// Removes a copy that is not used any more; one that stays is removed with its directory in the end.
pub(super) fn remove_copy(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "staged copy stays");
    }
}
