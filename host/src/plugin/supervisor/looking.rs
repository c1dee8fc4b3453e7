//! What is in the directory, and what it calls for.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{Slot, Task, stem};
use crate::{
    plugin::{
        history::History,
        lifecycle::{Life, Order},
        settle::ContentHash,
        watch,
    },
    store::Kept,
};

impl Task {
    /// Looks into the directory, and does what has to be done about what is there and what is not.
    pub(super) fn look(&mut self, directory: &Path) {
        let mut seen = match watch::scan(directory) {
            Ok(seen) => seen,
            Err(error) => {
                // A directory that cannot be read is no order to unload anything.
                if !std::mem::replace(&mut self.directory_missing, true) {
                    tracing::warn!(directory = %directory.display(), %error, "no plugin directory; looking again");
                }
                return;
            }
        };
        if std::mem::take(&mut self.directory_missing) {
            tracing::info!(directory = %directory.display(), "the plugin directory is there");
        }
        self.judge_directory(directory);
        let is_first_look = self.next_place == 0 && !*self.settled.borrow();
        let now = Instant::now();
        let patience = self.shared.config.gone;
        let mut forget = Vec::new();
        let mut orders = Vec::new();
        for (file, slot) in &mut self.slots {
            let look = seen.remove(&**file);
            slot.removed &= look.is_none();
            let gone = if slot.removed { Duration::ZERO } else { patience };
            if let Some(fingerprint) = look
                && slot.is_frozen()
            {
                let ignored = !slot.life.look_only(fingerprint);
                if ignored && !std::mem::replace(&mut slot.ignored, ignored) {
                    tracing::warn!(file = &**file, "the file has changed, and is not loaded: it is pinned");
                }
                continue;
            }
            match slot.life.look(look, now, gone) {
                Some(Order::Forget) => forget.push(file.clone()),
                Some(order) => orders.push((file.clone(), order)),
                None => {}
            }
        }
        for (name, fingerprint) in seen {
            let file: Arc<str> = name.into();
            let mut life = Life::new(SystemTime::now());
            if self.shared.config.store.kept(Kept::DisabledPlugin, stem(&file)).is_some() {
                // Nothing of it runs that would have to end.
                life.disable();
            }
            if let Some(order) = life.look(Some(fingerprint), now, patience) {
                orders.push((file.clone(), order));
            }
            let pinned = self.shared.config.store.kept(Kept::PinnedPlugin, stem(&file));
            let pinned = pinned.and_then(|hash| ContentHash::parse(&hash));
            let place = self.next_place;
            self.next_place += 1;
            let slot = Slot {
                life,
                place,
                running: None,
                heir: None,
                candidate: None,
                last: None,
                warm: None,
                draining: BTreeSet::new(),
                pinned,
                ignored: false,
                history: History::default(),
                awaited: is_first_look,
                first: is_first_look,
                removed: false,
                wants: None,
                waiting: Vec::new(),
            };
            self.slots.insert(file, slot);
        }
        for file in forget {
            // What is still mapped keeps its file in the list.
            let remains = self.remains.values().any(|remains| remains.file == file);
            if !remains && self.slots.get(&file).is_some_and(|slot| slot.draining.is_empty()) {
                self.slots.remove(&file);
            }
        }
        for (file, order) in orders {
            match order {
                Order::Vet => self.vet(file),
                Order::Unload => self.unload(&file, "its file is gone"),
                Order::Forget => {}
            }
        }
    }

    /// Whether the directory may be loaded from; each file in one that may not is refused for that. What runs goes on.
    fn judge_directory(&mut self, directory: &Path) {
        let fault = self.shared.config.trust.directory(directory).err();
        if fault == self.directory_fault {
            return;
        }
        match &fault {
            Some(fault) => tracing::error!(reason = %fault, "nothing is loaded from the plugin directory"),
            None => tracing::info!(directory = %directory.display(), "the plugin directory is trusted now"),
        }
        self.directory_fault = fault;
        self.reconsider_untrusted();
    }

    /// Owners and modes above a file may have been put right. To look is cheap: nothing is read before that is right.
    pub(super) fn reconsider_untrusted(&mut self) {
        for slot in self.slots.values_mut() {
            if slot.life.refusal().is_some_and(|refused| refused.refusal.is_about_owners()) {
                slot.life.reconsider();
            }
        }
    }
}
