//! The thread of a generation whose plugin runs in a worker: takes mail, hands it over, and starts the next worker when
//! one dies.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use muster_plugin_api::abi::{Mail, kind};
use tokio::sync::oneshot;

use super::{
    Figures, PATIENCE, Plan,
    death::Death,
    life::{Life, Over},
};
use crate::{
    deaths::{Deaths, Next},
    modules::{
        actor::{Left, mail_of},
        host::Host,
        mailbox::{Mailbox, Post},
        presence::Presence,
    },
    plugin::unload::{Bystanders, HostThread},
};

/// A parcel is sent when it has become so large; with it, a worker has the most that it needs for one turn.
const PARCEL: usize = 1 << 20;

/// The bridge between a generation's mailbox and its workers.
#[derive(Debug)]
pub(crate) struct Bridge {
    stem: String,
    path: PathBuf,
    plan: Plan,
    host: Arc<Host>,
    presence: Arc<Presence>,
    figures: Arc<Figures>,
    /// Taken from the mailbox, and not given to a worker yet.
    backlog: Vec<Post>,
    /// Given to the worker, by parcel, and perhaps not begun with.
    on_the_way: Vec<(u64, Vec<Post>)>,
    /// Options of the instances that run, by their numbers: for the next worker.
    started: BTreeMap<u32, Bytes>,
    /// What tells an instance that the master is there, while it is.
    greetings: BTreeMap<u32, Bytes>,
}

/// Why a worker is not served any more.
enum Ended {
    /// The generation goes.
    Closed,
    Died,
}

impl From<Over> for Ended {
    fn from(_: Over) -> Ended {
        Ended::Died
    }
}

impl Bridge {
    /// A bridge that has not started a worker yet.
    pub(crate) fn new(
        stem: &str,
        path: PathBuf,
        plan: Plan,
        host: Arc<Host>,
        presence: Arc<Presence>,
        figures: Arc<Figures>,
    ) -> Bridge {
        Bridge {
            stem: stem.to_owned(),
            path,
            plan,
            host,
            presence,
            figures,
            backlog: Vec::new(),
            on_the_way: Vec::new(),
            started: BTreeMap::new(),
            greetings: BTreeMap::new(),
        }
    }

    /// The whole life of the generation's thread. `ready` is told when the plugin exists, or why it does not.
    pub(crate) fn live(mut self, ready: oneshot::Sender<Result<(), String>>) -> Left {
        self.presence.arrive();
        let _mark = HostThread::mark();
        // Nothing is mapped, so that nobody can be inside.
        let left = Left { library: None, bystanders: Bystanders::default() };
        let mut ready = Some(ready);
        let mut deaths = Deaths::new(PATIENCE);
        for number in 1.. {
            let begun = Instant::now();
            let life =
                Life::begin(&self.stem, &self.path, &self.plan, self.host.clone(), self.presence.clone(), number);
            let death = match life {
                Ok(life) => {
                    self.figures.runs(Some((life.pid(), life.group())));
                    let ended = self.serve(&life, &mut ready);
                    self.figures.runs(None);
                    match ended {
                        Ended::Closed => {
                            life.end();
                            return left;
                        }
                        Ended::Died => life.bury(Duration::ZERO),
                    }
                }
                Err(error) => Death::at_birth(&error),
            };
            let why = death.why.clone();
            self.presence.set_inside(false);
            if let Some(ready) = ready.take() {
                self.mailbox().close();
                // Whoever started this may have lost patience.
                drop(ready.send(Err(why)));
                return left;
            }
            self.figures.died(&death);
            self.mourn(death);
            match deaths.record(Instant::now(), begun.elapsed()) {
                Next::Again(pause) => {
                    tracing::warn!(plugin = self.stem, deaths = number, ?pause, why, "a worker died");
                    if self.mailbox().pause(pause) {
                        return left;
                    }
                }
                Next::Never { deaths, within } => {
                    self.give_up(&format!("{deaths} times within {} s; the last time {why}", within.as_secs()));
                    return left;
                }
            }
        }
        left
    }

    /// Gives a worker what arrives, until one of the two has an end.
    fn serve(&mut self, life: &Life, ready: &mut Option<oneshot::Sender<Result<(), String>>>) -> Ended {
        let created = life.created(crate::plugin::START);
        let resumed = created.map_err(Ended::from).and_then(|()| match ready.take() {
            // Whoever started this may have lost patience.
            Some(ready) => ready.send(Ok(())).map_err(|_| Ended::Closed),
            None => self.resume(life),
        });
        if let Err(ended) = resumed {
            return ended;
        }
        loop {
            if self.backlog.is_empty() && !self.host.mailbox.take(&mut self.backlog) {
                return Ended::Closed;
            }
            if life.is_over() {
                return Ended::Died;
            }
            if let Err(ended) = self.deliver(life) {
                return ended;
            }
        }
    }

    /// Brings another worker to where the last one was: its instances run, and know that the master is there.
    fn resume(&mut self, life: &Life) -> Result<(), Ended> {
        let starts: Vec<Post> = self
            .started
            .iter()
            .map(|(instance, options)| Post::Start { instance: *instance, id: 0, options: options.clone() })
            .collect();
        let now = Instant::now();
        let instances = self.host.instances.clone();
        let calls = self.mailbox().calls().clone();
        let mut mail: Vec<_> = starts.iter().filter_map(|post| mail_of(post, &instances, &calls, now)).collect();
        life.start_again(&mut mail)?;
        let until = now + crate::plugin::START;
        // Those who start may ask for something: its end comes through the mailbox. Calls wait there.
        let waiting = std::mem::take(&mut self.backlog);
        while !life.has_started()? {
            if Instant::now() >= until {
                life.condemn("it did not start again in time".to_owned());
            }
            if !self.host.mailbox.take_urgent(&mut self.backlog, until) {
                return Err(Ended::Closed);
            }
            self.deliver(life)?;
        }
        let greetings = self.greetings.iter();
        self.backlog = greetings.map(|(&instance, json)| Post::Event { instance, json: json.clone() }).collect();
        self.backlog.extend(waiting);
        self.figures.restarts.fetch_add(1, Ordering::Relaxed);
        tracing::info!(plugin = self.stem, pid = life.pid(), took = ?now.elapsed(), "a worker has taken over");
        Ok(())
    }

    /// Gives the backlog to the worker. What it was not given is there for the next one.
    fn deliver(&mut self, life: &Life) -> Result<(), Ended> {
        while !self.backlog.is_empty() {
            while !life.has_room()? {
                if self.mailbox().is_closed() {
                    return Err(Ended::Closed);
                }
            }
            let in_hand = life.in_hand().unwrap_or(u64::MAX);
            self.on_the_way.retain(|(number, _)| *number >= in_hand);
            let posts = self.next_parcel();
            posts.iter().for_each(|post| self.note(post));
            let (number, given) = self.give(&posts, life);
            self.on_the_way.push((number, posts));
            given?;
        }
        Ok(())
    }

    /// Takes as much from the backlog as makes a parcel.
    fn next_parcel(&mut self) -> Vec<Post> {
        let mut size = 0;
        let fits = self.backlog.iter().take_while(|post| {
            let before = size;
            size += size_of::<Mail<'_>>() + post.body_len();
            before < PARCEL
        });
        let fitting = fits.count();
        if fitting == self.backlog.len() {
            return std::mem::take(&mut self.backlog);
        }
        self.backlog.drain(..fitting).collect()
    }

    fn give(&self, posts: &[Post], life: &Life) -> (u64, Result<(), Over>) {
        let (now, calls) = (Instant::now(), self.mailbox().calls());
        let mut begun = Vec::new();
        let mail = posts.iter().filter_map(|post| {
            let mut mail = mail_of(post, &self.host.instances, calls, now)?;
            match mail.kind {
                kind::COMPLETE => mail.id = life.own_operation(mail.id)?,
                kind::EVENT => {}
                _ => begun.push(mail.id),
            }
            Some(mail)
        });
        let mail: Vec<Mail<'_>> = mail.collect();
        if mail.is_empty() { (0, Ok(())) } else { life.give(&mail, &begun) }
    }

    /// Ends the calls that a worker has taken with it, but not those that it cannot have begun with: these are given to
    /// the next one.
    fn mourn(&mut self, death: Death) {
        let Death { why, from_outside: _, mut delivered, in_hand } = death;
        let in_hand = in_hand.unwrap_or(u64::MAX);
        let mut again = Vec::new();
        for post in self.on_the_way.drain(..).filter(|(number, _)| *number > in_hand).flat_map(|(_, posts)| posts) {
            match post {
                // One that is not there has ended: its deadline had passed.
                Post::Call { id, .. } | Post::Tick { id, .. } if !delivered.remove(&id) => {}
                Post::Call { .. } | Post::Tick { .. } | Post::Event { .. } => again.push(post),
                // Of the worker that is gone.
                Post::Complete { .. }
                | Post::Start { .. }
                | Post::Stop { .. }
                | Post::Export { .. }
                | Post::Import { .. } => {}
            }
        }
        again.append(&mut self.backlog);
        self.backlog = again;
        for call in delivered {
            self.mailbox().calls().lose(call, &format!("was restarted: {why}"));
        }
    }

    /// Remembers what the next worker would have to know.
    fn note(&mut self, post: &Post) {
        match post {
            Post::Start { instance, options, .. } => drop(self.started.insert(*instance, options.clone())),
            Post::Stop { instance, .. } => {
                self.started.remove(instance);
                self.greetings.remove(instance);
            }
            Post::Event { instance, json } if json.starts_with(br#"{"masterConnected""#) => {
                self.greetings.insert(*instance, json.clone());
            }
            Post::Event { instance, json } if json.starts_with(br#""masterLost""#) => {
                self.greetings.remove(instance);
            }
            // A state is out of date by the time that a worker dies: the next one starts without.
            Post::Call { .. }
            | Post::Tick { .. }
            | Post::Event { .. }
            | Post::Complete { .. }
            | Post::Export { .. }
            | Post::Import { .. } => {}
        }
    }

    /// Starts no other worker with this content, in this generation or any other.
    fn give_up(&self, how: &str) {
        let reason = format!("its worker died {how}");
        tracing::error!(plugin = self.stem, hash = %self.plan.hash, reason, "quarantined");
        self.plan.quarantine.quarantine(&self.plan.hash, &reason);
        self.figures.condemned.send_replace(Some(reason.clone()));
        self.mailbox().close();
        self.mailbox().calls().end_all(&format!("it is quarantined: {reason}"));
    }

    fn mailbox(&self) -> &Arc<Mailbox> {
        &self.host.mailbox
    }
}
