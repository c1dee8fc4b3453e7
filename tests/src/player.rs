//! Plays the peers of a recording against a master, and judges every packet that the master sends.
//!
//! The recording is walked in its order. A peer's packet is sent once every packet recorded before it, on
//! whatever connection, has come and was right; before the sending changes to another connection, the
//! master must have taken in what the last one sent (it has answered a PINGREQ there), for the recording
//! peers were tens of milliseconds apart, and the order in which two sockets are read is nobody's promise.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::compare::{Names, Sender};
use crate::packet::Packet;
use crate::peer::Peer;
use crate::transcript::{Direction, Event, Line, Transcript};

/// The peers of one or several recordings that belong together.
#[derive(Debug)]
pub struct Player {
    master: SocketAddr,
    peers: BTreeMap<u32, Peer>,
    names: Names,
    /// Connection on which something was sent that the master need not have taken yet.
    unsettled: Option<u32>,
    /// Messages that timers send, and that may come once more at the end.
    of_timers: Vec<String>,
}

impl Player {
    /// Peers for the master at this address.
    pub fn new(master: SocketAddr) -> Self {
        Self { master, peers: BTreeMap::new(), names: Names::default(), unsettled: None, of_timers: Vec::new() }
    }

    /// Messages of this module may come again after the end of the recording, because a timer sends them.
    #[must_use]
    pub fn with_timer(mut self, module: &str) -> Self {
        self.of_timers.push(module.to_owned());
        self
    }

    /// Plays a whole recording, and asserts at the end that nothing came that was not recorded.
    pub async fn replay(master: SocketAddr, transcript: &Transcript) {
        let mut player = Self::new(master);
        player.play(transcript).await;
        player.finish().await;
    }

    /// Plays a recording with connections that may be left from an earlier one.
    ///
    /// # Panics
    /// At the first line where the master does something else.
    pub async fn play(&mut self, transcript: &Transcript) {
        for line in transcript.lines() {
            if let Err(what) = self.act(line).await {
                let peer = &self.peers.get(&line.conn).map(Peer::inbox);
                panic!(
                    "{}, line {} (connection {}, {}): {what}\n  recorded: {:?}\n  waiting: {peer:?}\n  deviations: {:#?}",
                    transcript.name(),
                    line.number,
                    line.conn,
                    line.peer,
                    line.event,
                    transcript.reasons(),
                );
            }
        }
    }

    /// Asserts that nothing has come that was not recorded.
    pub async fn finish(mut self) {
        self.expect_silence().await;
    }

    /// Asserts that no connection has a packet that nobody looked at.
    pub async fn expect_silence(&mut self) {
        for (conn, peer) in &mut self.peers {
            peer.settle().await;
            let extra: Vec<&Packet> = peer
                .inbox()
                .iter()
                .filter(|packet| **packet != Packet::Pingresp)
                .filter(|packet| !is_of(packet, &self.of_timers))
                .collect();
            assert!(extra.is_empty(), "connection {conn}: nothing more was recorded, but there came {extra:#?}");
        }
    }

    /// The peer on a connection, for steps that were not recorded.
    pub fn peer(&mut self, conn: u32) -> &mut Peer {
        self.peers.get_mut(&conn).unwrap_or_else(|| panic!("connection {conn} is not open"))
    }

    /// Takes over a peer that the test has connected itself, under its number in the recording.
    pub fn adopt(&mut self, conn: u32, peer: Peer) {
        assert!(self.peers.insert(conn, peer).is_none(), "connection {conn} is open already");
    }

    /// Breaks a connection.
    pub fn cut(&mut self, conn: u32) {
        assert!(self.peers.remove(&conn).is_some(), "connection {conn} is not open");
        self.unsettled = self.unsettled.filter(|other| *other != conn);
    }

    async fn act(&mut self, line: &Line) -> Result<(), String> {
        match (&line.event, line.direction) {
            (Event::Note(_), _) => {}
            (Event::Cut, _) => self.cut(line.conn),
            (Event::Open, _) => {
                self.settle_others(line.conn).await;
                let name = format!("{} (connection {})", line.peer, line.conn);
                self.peers.insert(line.conn, Peer::open(name, self.master).await);
            }
            (Event::Packet(packet), Direction::ToMaster) => {
                self.settle_others(line.conn).await;
                let packet = self.translate(packet);
                self.peer(line.conn).send(&packet).await;
                // PINGREQ before CONNACK would be a question to a stranger, and one after it has its own answer.
                self.unsettled = matches!(packet, Packet::Publish { .. } | Packet::Disconnect).then_some(line.conn);
            }
            (Event::Fin, Direction::ToMaster) => {
                self.settle_others(line.conn).await;
                self.peer(line.conn).finish_sending().await;
            }
            (Event::Packet(recorded), Direction::ToPeer) => {
                let live = self.next(line.conn, recorded).await?;
                let mut judge = |wanted| self.names.compare(wanted, &live, Sender::Master);
                let verdict = judge(recorded);
                let alternative = line.or.iter().find_map(|event| match event {
                    Event::Packet(wanted) => judge(wanted).ok(),
                    _ => None,
                });
                if alternative.is_none() {
                    verdict.map_err(|what| format!("{what}\n  got: {live:?}"))?;
                }
            }
            (Event::Fin, Direction::ToPeer) => self.peer(line.conn).try_closed().await?,
            (Event::Reset, _) => return Err("recordings with resets cannot be played".to_owned()),
        }
        Ok(())
    }

    /// Next packet of a connection. A master may write a PINGRESP at any time to see whether a peer is
    /// still there (quirk Q5), for the originals take it.
    async fn next(&mut self, conn: u32, recorded: &Packet) -> Result<Packet, String> {
        loop {
            let live = self.peer(conn).try_next().await?;
            let live = live.ok_or("the master closed the connection")?;
            if live != Packet::Pingresp || *recorded == Packet::Pingresp {
                return Ok(live);
            }
        }
    }

    async fn settle_others(&mut self, conn: u32) {
        if let Some(other) = self.unsettled.take_if(|other| *other != conn)
            && let Some(peer) = self.peers.get_mut(&other)
        {
            peer.settle().await;
        }
    }

    fn translate(&self, packet: &Packet) -> Packet {
        match packet {
            // Only monitors answer; a client's response ids are of no use to anybody.
            Packet::Publish { topic, payload } if topic == "monitor" => {
                Packet::publish(topic, self.names.translate_response(payload))
            }
            other => other.clone(),
        }
    }
}

fn is_of(packet: &Packet, modules: &[String]) -> bool {
    match packet {
        Packet::Publish { payload, .. } => {
            let message = crate::payload::decode(payload);
            modules.iter().any(|module| message["moduleId"] == **module)
        }
        _ => false,
    }
}
