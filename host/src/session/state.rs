//! What a connection may do next: pure, (state, packet, now) → what to do.

use std::time::{Duration, Instant};

use crate::wire::{Topic, packet::Packet};

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing was said yet.
    Greeting,
    /// CONNECT was said, nobody has registered.
    Connected,
    /// It is a server.
    Monitor,
    /// It is a logged-in client.
    Client,
}

/// How long a connection may take to say who it is, counted from its acceptance.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) accepted: Instant,
    pub(crate) connect_within: Duration,
    pub(crate) register_within: Duration,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action<'a> {
    Nothing,
    /// Write these bytes.
    Send(&'static [u8]),
    /// Decide who this is, from a `register` or a `reconnect`.
    Admit {
        topic: Topic,
        payload: &'a [u8],
    },
    /// A registered peer says something.
    Message {
        payload: &'a [u8],
    },
    /// Say good-bye and close.
    Dismiss(Reason),
    /// Close.
    Close(Reason),
}

/// Why a connection ends. For the log; refusals also have a text for the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Reason {
    #[error("the peer said DISCONNECT")]
    Left,
    #[error("it said something else before CONNECT")]
    NoConnect,
    #[error("it said CONNECT twice")]
    SecondConnect,
    #[error("it spoke before it registered")]
    Unregistered,
    #[error("it registered twice")]
    SecondRegister,
    #[error("no CONNECT in time")]
    ConnectTimeout,
    #[error("did not register in time")]
    RegisterTimeout,
}

impl State {
    /// What a packet means here.
    pub(crate) fn on_packet<'a>(&mut self, packet: Packet<'a>) -> Action<'a> {
        match (*self, packet) {
            (_, Packet::Disconnect) => Action::Close(Reason::Left),
            (State::Greeting, Packet::Connect) => {
                *self = State::Connected;
                Action::Send(crate::wire::packet::CONNACK)
            }
            // The original's master does not insist; but no real peer does otherwise, and MQTT forbids it.
            (State::Greeting, _) => Action::Close(Reason::NoConnect),
            (_, Packet::Connect) => Action::Close(Reason::SecondConnect),
            (_, Packet::Pingreq) => Action::Send(crate::wire::packet::PINGRESP),
            (_, Packet::Connack | Packet::Pingresp | Packet::Ignored) => Action::Nothing,
            (state, Packet::Publish { topic: Some(topic), payload }) => state.on_publish(topic, payload),
            (_, Packet::Publish { topic: None, .. }) => Action::Nothing,
        }
    }

    /// Whether a connection that begins with this byte may go on: a browser at the wrong port need not be waited for.
    pub(crate) fn may_begin_with(self, first: u8) -> bool {
        self != State::Greeting || first >> 4 == 1
    }

    /// When the connection is cut if nothing changes, and why.
    pub(crate) fn deadline(self, patience: &Patience) -> Option<(Instant, Reason)> {
        match self {
            State::Greeting => Some((patience.accepted + patience.connect_within, Reason::ConnectTimeout)),
            State::Connected => Some((patience.accepted + patience.register_within, Reason::RegisterTimeout)),
            State::Monitor | State::Client => None,
        }
    }

    /// Whether the peer has said who it is.
    pub(crate) fn is_registered(self) -> bool {
        matches!(self, State::Monitor | State::Client)
    }

    fn on_publish(self, topic: Topic, payload: &[u8]) -> Action<'_> {
        match (self, topic) {
            (State::Connected, Topic::Register | Topic::Reconnect) => Action::Admit { topic, payload },
            (State::Connected, Topic::Monitor | Topic::Client) => Action::Dismiss(Reason::Unregistered),
            // The original lets a connection become a second server, or a slave of itself.
            (State::Monitor | State::Client, Topic::Register | Topic::Reconnect) => {
                Action::Dismiss(Reason::SecondRegister)
            }
            (State::Monitor, Topic::Monitor) | (State::Client, Topic::Client) => Action::Message { payload },
            (State::Monitor, Topic::Client) | (State::Client, Topic::Monitor) => Action::Nothing,
            (_, Topic::ReconnectOk | Topic::Rpc) => Action::Nothing,
            (State::Greeting, _) => Action::Close(Reason::NoConnect),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAID: &[u8] = b"{}";

    fn publish(topic: Topic) -> Packet<'static> {
        Packet::Publish { topic: Some(topic), payload: SAID }
    }

    #[track_caller]
    fn check(mut state: State, packet: Packet<'static>, expected: Action<'static>) {
        assert_eq!(state.on_packet(packet), expected);
    }

    #[test]
    fn a_connection_introduces_itself_step_by_step() {
        let mut state = State::Greeting;
        assert_eq!(state.on_packet(Packet::Connect), Action::Send(crate::wire::packet::CONNACK));
        assert_eq!(state, State::Connected);
        let admit = Action::Admit { topic: Topic::Register, payload: SAID };
        assert_eq!(state.on_packet(publish(Topic::Register)), admit);
    }

    #[test]
    fn who_speaks_before_registering_is_dismissed() {
        check(State::Connected, publish(Topic::Monitor), Action::Dismiss(Reason::Unregistered));
        check(State::Connected, publish(Topic::Client), Action::Dismiss(Reason::Unregistered));
        check(State::Greeting, publish(Topic::Register), Action::Close(Reason::NoConnect));
        check(State::Greeting, Packet::Pingreq, Action::Close(Reason::NoConnect));
    }

    #[test]
    fn what_cannot_become_a_connect_is_not_waited_for() {
        assert!(State::Greeting.may_begin_with(0x10));
        assert!(!State::Greeting.may_begin_with(b'G'));
        assert!(State::Connected.may_begin_with(0x30));
    }

    #[test]
    fn each_role_has_its_own_topic_and_the_other_is_ignored() {
        check(State::Monitor, publish(Topic::Monitor), Action::Message { payload: SAID });
        check(State::Client, publish(Topic::Client), Action::Message { payload: SAID });
        check(State::Monitor, publish(Topic::Client), Action::Nothing);
        check(State::Client, publish(Topic::Monitor), Action::Nothing);
    }

    #[test]
    fn a_second_identity_on_one_connection_is_refused() {
        for state in [State::Monitor, State::Client] {
            for topic in [Topic::Register, Topic::Reconnect] {
                check(state, publish(topic), Action::Dismiss(Reason::SecondRegister));
            }
        }
    }

    #[test]
    fn only_the_registered_may_take_their_time() {
        let accepted = Instant::now();
        let patience =
            Patience { accepted, connect_within: Duration::from_secs(5), register_within: Duration::from_secs(10) };
        let at = |state: State| state.deadline(&patience).map(|(at, _)| at - accepted);
        assert_eq!(at(State::Greeting), Some(Duration::from_secs(5)));
        assert_eq!(at(State::Connected), Some(Duration::from_secs(10)));
        assert_eq!((at(State::Monitor), at(State::Client)), (None, None));
    }

    proptest! {
        /// No order of packets makes a peer of anybody: only an admission does, which is not a packet's to give.
        #[test]
        fn no_packet_registers_by_itself(order in prop::collection::vec(0usize..9, 0..20)) {
            let packets = [
                Packet::Connect, Packet::Connack, Packet::Pingreq, Packet::Pingresp, Packet::Ignored,
                publish(Topic::Register), publish(Topic::Monitor), publish(Topic::Client),
                Packet::Publish { topic: None, payload: SAID },
            ];
            let mut state = State::Greeting;
            for index in order {
                let action = state.on_packet(packets[index]);
                prop_assert!(!state.is_registered());
                let is_message = matches!(action, Action::Message { .. });
                prop_assert!(!is_message);
            }
        }
    }
}
