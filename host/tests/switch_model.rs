//! The switch from one generation to the next with calls in flight, in every order in which its steps can meet.
//!
//! The steps are those of the host, compiled from its own file; what surrounds them there (a mailbox, a table of routes)
//! is as small here as it can be.

#![allow(missing_docs, reason = "a test's name is its sentence")]

use std::sync::Arc;

use loom::{
    sync::{Mutex, MutexGuard},
    thread,
};

/// What the host takes from `std`.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicUsize, Ordering};
}

#[path = "../src/modules/switch.rs"]
mod switch;

use switch::{Attempt, Open, Phase, hand_over};

/// How often a thread is interrupted while it could go on.
const PREEMPTIONS: usize = 2;

struct Generation {
    open: Open,
    /// What it takes, and the calls that it was given.
    mailbox: Mutex<(Phase, Vec<u32>)>,
}

struct World {
    /// Which generation is served.
    table: Mutex<Arc<usize>>,
    generations: [Generation; 2],
}

impl Generation {
    fn new() -> Generation {
        Generation { open: Open::none(), mailbox: Mutex::new((Phase::Open, Vec::new())) }
    }

    fn mailbox(&self) -> MutexGuard<'_, (Phase, Vec<u32>)> {
        self.mailbox.lock().expect("nobody panics")
    }

    /// As a mailbox of the host takes it.
    fn post(&self, call: u32) -> Attempt<u32, ()> {
        self.open.begin();
        let mut mailbox = self.mailbox();
        if mailbox.0 == Phase::Open {
            mailbox.1.push(call);
            return Attempt::Over(());
        }
        drop(mailbox);
        self.open.end();
        Attempt::Closed(call)
    }

    /// As a generation's thread does: takes what is there, and ends it.
    fn work(&self) -> Vec<u32> {
        let calls = std::mem::take(&mut self.mailbox().1);
        for _ in &calls {
            self.open.end();
        }
        calls
    }
}

impl World {
    fn new() -> World {
        World { table: Mutex::new(Arc::new(0)), generations: [Generation::new(), Generation::new()] }
    }

    fn call(&self, call: u32) {
        let load = || self.table.lock().expect("nobody panics").clone();
        let handed = hand_over(call, load, Arc::ptr_eq, |served, call| self.generations[**served].post(call));
        assert_eq!(handed, Ok(()), "there is always one that takes calls");
    }

    /// In the order of the supervisor.
    fn switch_to(&self, next: usize) {
        let (old, new) = (&self.generations[1 - next], &self.generations[next]);
        new.mailbox().0.reopen();
        *self.table.lock().expect("nobody panics") = Arc::new(next);
        old.mailbox().0.drain();
    }
}

#[test]
fn a_generation_is_closed_after_its_last_call_and_every_call_gets_to_one_generation() {
    // Of three threads all orders are too many; faults of this kind need one or two turns at the wrong moment.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS);
    model.check(|| {
        let world = Arc::new(World::new());
        let callers = [1, 2].map(|call| {
            let world = world.clone();
            thread::spawn(move || world.call(call))
        });
        world.switch_to(1);
        let old = &world.generations[0];
        let mut ended = Vec::new();
        loop {
            ended.extend(old.work());
            if old.open.count() == 0 {
                break;
            }
            thread::yield_now();
        }
        old.mailbox().0 = Phase::Closed;
        assert!(old.mailbox().1.is_empty(), "nobody is left behind");
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        assert!(old.mailbox().1.is_empty(), "and nobody comes to a dead generation");
        ended.extend(world.generations[1].work());
        ended.sort_unstable();
        assert_eq!(ended, vec![1, 2], "each call once");
    });
}

#[test]
fn a_call_is_taken_while_the_route_goes_there_and_back() {
    loom::model(|| {
        let world = Arc::new(World::new());
        let caller = {
            let world = world.clone();
            thread::spawn(move || world.call(1))
        };
        world.switch_to(1);
        world.switch_to(0);
        caller.join().unwrap();
        let taken: Vec<u32> = world.generations.iter().flat_map(Generation::work).collect();
        assert_eq!(taken, vec![1]);
    });
}
