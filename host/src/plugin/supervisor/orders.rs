//! What people order about a plugin.

use std::{path::Path, sync::Arc};

use tokio::sync::oneshot;

use super::{Task, file_of, stem};
use crate::{
    plugin::{control::Change, history::By, orders::Action, refusal::Refusal, status::FileStatus},
    store::Kept,
};

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
                    (slot.removed, slot.pinned) = (true, None);
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
        let file = file_of(name);
        if !self.slots.contains_key(&file) {
            return Err(format!("there is no plugin {name}"));
        }
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
        let running = slot.running.as_ref().map(|running| running.hash);
        if pinned && running.is_none() {
            return Err(format!("{name} does not run: there is nothing to pin"));
        }
        slot.pinned = running.filter(|_| pinned);
        slot.ignored = false;
        Ok(if pinned {
            format!("{name} is pinned until it is unpinned: no other content of it is loaded, also after a restart")
        } else {
            slot.life.reconsider();
            format!("{name} is not pinned")
        })
    }

    /// Has the pin of a file written down, if it is not as it was. The future says when that is done.
    pub(super) fn write_pin(&self, file: &Arc<str>) -> impl Future<Output = ()> + use<> {
        let (store, name) = (&self.shared.config.store, stem(file).to_owned());
        let slot = self.slots.get(file);
        let pin = slot.and_then(|slot| slot.pinned).map(|hash| hash.to_string());
        let changed = slot.is_some() && store.kept(Kept::PinnedPlugin, &name) != pin;
        let written = changed.then(|| store.keep(Kept::PinnedPlugin, &name, pin.as_deref()));
        async move {
            if let Some(written) = written
                && !written.await
            {
                tracing::warn!(plugin = name, "not remembered durably: after a restart its pin is as it was before");
            }
        }
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
