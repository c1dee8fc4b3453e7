//! What people order about a plugin.

use std::{path::Path, sync::Arc};

use tokio::sync::oneshot;

use super::Task;
use crate::plugin::{control::Change, history::By, orders::Action, refusal::Refusal, status::FileStatus};

impl Task {
    /// Does what an administrator says. It was written down before.
    pub(super) fn order(
        &mut self,
        file: &Arc<str>,
        change: Change,
        done: oneshot::Sender<Option<FileStatus>>,
        directory: &Path,
    ) {
        // A file that has just been installed is there from now on.
        self.look(directory);
        if let Some(slot) = self.slots.get_mut(file) {
            let order = match change {
                Change::Look => None,
                Change::Reload => {
                    slot.life.reload();
                    None
                }
                Change::Enable => {
                    slot.life.enable();
                    None
                }
                Change::Disable => slot.life.disable(),
                Change::Forget => {
                    slot.removed = true;
                    None
                }
            };
            slot.waiting.push(done);
            if order.is_some() {
                self.unload(file, "it was disabled");
            }
            self.look(directory);
        }
    }

    /// Does it; says what was done, or why it cannot be.
    pub(super) fn obey(&mut self, action: Action, name: &str) -> Result<String, String> {
        let known = self.slots.keys().find(|file| file.strip_suffix(".so") == Some(name) || &***file == name).cloned();
        let file = known.ok_or_else(|| format!("there is no plugin {name}"))?;
        tracing::info!(file = &*file, ?action, "ordered");
        match action {
            Action::Rollback => {
                self.roll_back(&file, "by hand", By::Order)?;
                Ok(format!("{name} is rolled back; its file is not loaded again until it changes"))
            }
            Action::Pin => self.pin(&file, true, name),
            Action::Unpin => self.pin(&file, false, name),
            Action::Unquarantine => self.unquarantine(&file, name),
        }
    }

    fn pin(&mut self, file: &Arc<str>, pinned: bool, name: &str) -> Result<String, String> {
        let Some(slot) = self.slots.get_mut(file) else { return Err(format!("there is no plugin {name}")) };
        if pinned && slot.running.is_none() {
            return Err(format!("{name} does not run: there is nothing to pin"));
        }
        slot.pinned = pinned;
        slot.ignored = false;
        Ok(if pinned {
            format!("{name} is pinned until it is unpinned or the daemon ends: new files are not loaded")
        } else {
            format!("{name} is not pinned")
        })
    }

    fn unquarantine(&mut self, file: &Arc<str>, name: &str) -> Result<String, String> {
        let Some(slot) = self.slots.get_mut(file) else { return Err(format!("there is no plugin {name}")) };
        let quarantined = slot.life.refusal().is_some_and(|refused| matches!(refused.refusal, Refusal::Quarantined(_)));
        let hash = slot.life.refused_content().filter(|_| quarantined);
        if !hash.is_some_and(|hash| self.shared.quarantine.lift(&hash)) {
            return Err(format!("{name} is not quarantined"));
        }
        slot.life.reconsider();
        Ok(format!("{name} is not quarantined any more; it is tried again"))
    }
}
