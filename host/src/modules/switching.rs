//! The route switch with calls in flight: whatever the moment, a call gets to one generation, and to one that takes calls.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use muster_plugin_api::{Manifest, Role};
use proptest::prelude::*;

use super::{
    Modules, Offer,
    call::{Call, ClientIdentity, Source},
    calls::Calls,
    mailbox::{Mailbox, Post},
};
use crate::ids::ConnId;

/// Two generations of one file, and what the supervisor does with them.
struct Switch {
    modules: Modules,
    generations: [Arc<Mailbox>; 2],
}

impl Switch {
    fn new() -> Switch {
        let modules = Modules::new(&[], Duration::from_secs(15));
        let generations = [0, 1].map(|_| Arc::new(Mailbox::new(Arc::new(Calls::new(Arc::new([]))))));
        let switch = Switch { modules, generations };
        switch.install(0);
        switch
    }

    fn install(&self, generation: usize) {
        let manifest = Arc::new(Manifest::new("m", "1.0.0"));
        let mailbox = self.generations[generation].clone();
        let modules = vec![(1, Role::Master, manifest, None)];
        self.modules.install(Offer { owner: "m.so".into(), place: 0, mailbox, modules }).expect("its ids are its own");
    }

    /// In the order of the supervisor: take calls, be routed to, send the others away.
    fn to(&self, generation: usize) {
        self.generations[generation].reopen();
        self.install(generation);
        self.generations[1 - generation].drain();
    }

    fn call(&self) -> bool {
        let client = ClientIdentity {
            connection: ConnId(1),
            address: ([127, 0, 0, 1], 1).into(),
            id: "c".into(),
            user: "admin".to_owned(),
            level: 1,
        };
        let source = Source::Client(Arc::new(client));
        let call = Call { source, body: Bytes::new(), arrived: Instant::now(), patience_ms: None, responder: None };
        self.modules.route(Role::Master, "m", call, |_| Ok(())).is_ok()
    }

    /// How many calls wait in a generation's mailbox; they do not afterwards.
    fn taken(&self, generation: usize) -> usize {
        let (mailbox, mut batch) = (&self.generations[generation], Vec::new());
        mailbox.wake();
        assert!(mailbox.take(&mut batch), "it is not closed");
        batch.iter().filter(|post| matches!(post, Post::Call { .. })).count()
    }
}

proptest! {
    /// One thing after the other, in any order.
    #[test]
    fn a_call_gets_to_the_generation_that_is_routed_to(steps in proptest::collection::vec(0..3_usize, 0..60)) {
        let switch = Switch::new();
        let (mut current, mut expected) = (0, [0, 0]);
        for step in steps {
            match step {
                2 => {
                    prop_assert!(switch.call());
                    expected[current] += 1;
                }
                generation => {
                    switch.to(generation);
                    current = generation;
                }
            }
        }
        prop_assert_eq!([switch.taken(0), switch.taken(1)], expected);
    }
}

/// Everything at once.
#[test]
fn no_call_is_lost_or_doubled_while_the_route_goes_to_and_fro() {
    const CALLERS: usize = 3;
    const EACH: usize = 2_000;
    let switch = Switch::new();
    let (arrived, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            for generation in [1, 0].into_iter().cycle() {
                if done.load(Ordering::SeqCst) {
                    break;
                }
                switch.to(generation);
                arrived.fetch_add(switch.taken(0) + switch.taken(1), Ordering::SeqCst);
            }
        });
        let callers: Vec<_> =
            (0..CALLERS).map(|_| scope.spawn(|| (0..EACH).filter(|_| switch.call()).count())).collect();
        let accepted: usize = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
        done.store(true, Ordering::SeqCst);
        assert_eq!(accepted, CALLERS * EACH, "none is refused: there is always one that takes calls");
    });
    arrived.fetch_add(switch.taken(0) + switch.taken(1), Ordering::SeqCst);
    assert_eq!(arrived.load(Ordering::SeqCst), CALLERS * EACH);
}
