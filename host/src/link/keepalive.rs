//! The keepalive of the protocol. Pure: the clock is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Time between two PINGREQs, from CONNACK on and whatever else is sent: the original's, and what masters count on.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(60);

/// A link is dead when a PINGREQ stayed unanswered for so many of these: the original's. Dead sockets are found
/// earlier, by the kernel's probes; this finds a peer that hangs.
const PATIENCE: u32 = 2;

/// When to ping, and when to give up.
#[derive(Debug)]
pub(crate) struct Keepalive {
    every: Duration,
    next: Instant,
    /// The oldest PINGREQ that was not answered.
    unanswered: Option<Instant>,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Nothing yet.
    Wait,
    /// Send a PINGREQ.
    Ping,
    /// Give the link up.
    Dead,
}

impl Keepalive {
    /// That of a master. Starts at CONNACK.
    pub(crate) fn new(now: Instant) -> Keepalive {
        Keepalive::every(PING_EVERY, now)
    }

    /// With another time between two PINGREQs.
    pub(crate) fn every(every: Duration, now: Instant) -> Keepalive {
        Keepalive { every, next: now + every, unanswered: None }
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(crate) fn due(&self) -> Instant {
        match self.unanswered {
            Some(since) => self.next.min(since + self.every * PATIENCE),
            None => self.next,
        }
    }

    /// To be called when due; at other times it does nothing.
    pub(crate) fn tick(&mut self, now: Instant) -> Beat {
        if self.unanswered.is_some_and(|since| now >= since + self.every * PATIENCE) {
            return Beat::Dead;
        }
        if now < self.next {
            return Beat::Wait;
        }
        // From now on and not from when it was due: a process that was stopped does not ping in bursts.
        self.next = now + self.every;
        self.unanswered.get_or_insert(now);
        Beat::Ping
    }

    /// A PINGRESP came.
    pub(crate) fn answered(&mut self) {
        self.unanswered = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_every_minute_and_gives_up_two_minutes_after_the_first_without_answer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut keepalive = Keepalive::new(start);
        assert_eq!(keepalive.tick(at(59)), Beat::Wait);
        assert_eq!(keepalive.due(), at(60));
        assert_eq!(keepalive.tick(at(60)), Beat::Ping);
        keepalive.answered();
        assert_eq!(keepalive.tick(at(120)), Beat::Ping);
        assert_eq!(keepalive.tick(at(180)), Beat::Ping);
        assert_eq!(keepalive.tick(at(239)), Beat::Wait);
        assert_eq!(keepalive.due(), at(240));
        assert_eq!(keepalive.tick(at(240)), Beat::Dead);
    }

    #[test]
    fn a_late_answer_saves_the_link() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut keepalive = Keepalive::new(start);
        assert_eq!(keepalive.tick(at(60)), Beat::Ping);
        assert_eq!(keepalive.tick(at(120)), Beat::Ping);
        keepalive.answered();
        assert_eq!(keepalive.tick(at(180)), Beat::Ping);
        assert_eq!(keepalive.tick(at(200)), Beat::Wait);
    }
}
