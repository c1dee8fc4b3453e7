//! What a mailbox does while a state is handed over: it holds back what comes from outside, asks for the state and gives
//! it, and lets go or gives back what it held.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Mailbox, Phase, Post};
use crate::{
    modules::{call::Call, calls::LifeEnd},
    plugin::refusal::human,
};

/// An instance that was asked for its state, or given one.
#[derive(Debug)]
#[must_use = "what it says is the state, or whether it was taken"]
pub(crate) struct Asked {
    mailbox: Arc<Mailbox>,
    id: u64,
    end: oneshot::Receiver<LifeEnd>,
    within: Duration,
    until: Instant,
}

/// Something that was held, and not delivered.
#[derive(Debug)]
pub(crate) struct Back {
    /// The instance that it was for.
    pub(crate) instance: u32,
    pub(crate) what: Held,
}

/// See [`Back`]. A tick is not given back: the next one comes.
#[derive(Debug)]
pub(crate) enum Held {
    Call { call: Call, deadline: Instant },
    Event(Bytes),
}

// === impl Mailbox ===

impl Mailbox {
    /// Delivers no calls, ticks and events from now on, but keeps what comes; their deadlines and the bound stay.
    pub(crate) fn hold(&self) {
        self.queue().held = true;
    }

    /// Delivers what was held, and what comes.
    pub(crate) fn release(self: &Arc<Self>) {
        let mut queue = self.queue();
        queue.held = false;
        self.rouse_later(queue);
    }

    /// Takes out what is held, in its order, for another generation, which numbers its instances like this. What is for
    /// an instance that it does not have stays.
    pub(crate) fn take_back(&self, number: impl Fn(u32) -> Option<u32>) -> Vec<Back> {
        let is_back = |post: &mut Post| match post {
            Post::Call { instance, .. } | Post::Tick { instance, .. } | Post::Event { instance, .. } => {
                number(*instance).inspect(|number| *instance = *number).is_some()
            }
            Post::Complete { .. }
            | Post::Start { .. }
            | Post::Stop { .. }
            | Post::Export { .. }
            | Post::Import { .. } => false,
        };
        let held: Vec<Post> = self.queue().posts.extract_if(.., is_back).collect();
        let back = held.into_iter().filter_map(|post| match post {
            Post::Call { instance, id, deadline, mut call, waited_for } => {
                call.responder = self.calls.withdraw(id);
                // Who waited and does not any more has been told at the deadline.
                let is_open = call.responder.is_some() || !waited_for;
                is_open.then_some(Back { instance, what: Held::Call { call, deadline } })
            }
            Post::Tick { id, .. } => {
                self.calls.withdraw(id);
                None
            }
            Post::Event { instance, json } => Some(Back { instance, what: Held::Event(json) }),
            Post::Complete { .. }
            | Post::Start { .. }
            | Post::Stop { .. }
            | Post::Export { .. }
            | Post::Import { .. } => None,
        });
        back.collect()
    }

    /// Takes calls again after [`drain`](Mailbox::drain) and [`hold`](Mailbox::hold), first of all these.
    pub(crate) fn resume(self: &Arc<Self>, first: Vec<Back>) {
        let posts: Vec<Post> = first
            .into_iter()
            .map(|Back { instance, what }| match what {
                Held::Call { mut call, deadline } => {
                    let responder = call.responder.take();
                    let waited_for = responder.is_some();
                    let id = self.calls.begin(instance, &call, deadline, responder);
                    Post::Call { instance, id, deadline, call, waited_for }
                }
                Held::Event(json) => Post::Event { instance, json },
            })
            .collect();
        let mut queue = self.queue();
        queue.calls += posts.iter().filter(|post| matches!(post, Post::Call { .. })).count();
        queue.posts.splice(0..0, posts);
        queue.held = false;
        if queue.phase == Phase::Draining {
            queue.phase = Phase::Open;
        }
        self.rouse_later(queue);
    }

    /// Asks an instance for its state, of at most so many bytes.
    pub(crate) fn export(self: &Arc<Self>, instance: u32, within: Duration, most: usize) -> Asked {
        self.ask_about_state(instance, within, most, |id| Post::Export { instance, id, within })
    }

    /// Gives an instance a state of this schema version.
    pub(crate) fn import(self: &Arc<Self>, instance: u32, within: Duration, schema: u32, state: Bytes) -> Asked {
        // It says only whether it took it.
        self.ask_about_state(instance, within, 0, |id| Post::Import { instance, id, within, schema, state })
    }

    fn ask_about_state(
        self: &Arc<Self>,
        instance: u32,
        within: Duration,
        most: usize,
        post: impl FnOnce(u64) -> Post,
    ) -> Asked {
        let (ended, end) = oneshot::channel();
        let id = self.calls.begin_life(instance, ended, Some(most));
        self.internal(post(id));
        Asked { mailbox: self.clone(), id, end, within, until: Instant::now() + within }
    }
}

// === impl Asked ===

impl Asked {
    /// What it says; `None` for nothing: it has no state, or starts without one.
    ///
    /// # Errors
    /// Why it did not.
    pub(crate) async fn answer(self) -> LifeEnd {
        match tokio::time::timeout_at(self.until.into(), self.end).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err("its generation has ended".to_owned())),
            Err(_) => {
                // Said later, it is of no use.
                self.mailbox.calls.withdraw(self.id);
                Err(format!("it had not answered after {} (plugins.handover)", human(&self.within)))
            }
        }
    }
}
