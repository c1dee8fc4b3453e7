//! Plays the master of a recording to a real monitor or client, and judges every packet that this sends.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::compare::{Names, Sender};
use crate::deadline::{PROCESS, within};
use crate::packet::Packet;
use crate::peer::Peer;
use crate::transcript::{Direction, Event, Line, Transcript};

/// A master that says what was recorded and nothing else.
#[derive(Debug)]
pub struct Stage {
    listener: TcpListener,
    /// The other ends, by the recording's numbers of the connections.
    peers: BTreeMap<u32, Peer>,
    names: Names,
}

impl Stage {
    /// Listens on a free port.
    pub async fn listen() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("the loopback has a free port");
        Self { listener, peers: BTreeMap::new(), names: Names::default() }
    }

    /// Address for the program that is judged.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound listener has an address")
    }

    /// What the recording calls `recorded` has another name in this run.
    pub fn call(&mut self, recorded: &str, live: &str) {
        self.names.call(recorded, live);
    }

    /// Plays the master's part. A transcript with several connections at a time should be reduced with
    /// [`Transcript::only`] to those of the one program that is judged.
    ///
    /// # Panics
    /// At the first line where the program does something else.
    pub async fn play(&mut self, transcript: &Transcript) {
        for line in transcript.lines() {
            if let Err(what) = self.act(line).await {
                panic!(
                    "{}, line {} (connection {}, {}): {what}\n  recorded: {:?}\n  deviations: {:#?}",
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

    /// Plays only the lines from `first` to `last`.
    pub async fn play_part(&mut self, transcript: &Transcript, first: usize, last: usize) {
        self.play(&transcript.part(first, last)).await;
    }

    /// The other end of a connection, for steps that were not recorded.
    pub fn peer(&mut self, conn: u32) -> &mut Peer {
        self.peers.get_mut(&conn).unwrap_or_else(|| panic!("connection {conn} is not open"))
    }

    /// Accepts the next connection, under a number of the test's choice.
    pub async fn accept(&mut self, conn: u32) {
        let accepted = within("a connection to the stage", PROCESS, self.listener.accept()).await;
        let (stream, _) = accepted.expect("a connection can be accepted");
        self.peers.insert(conn, Peer::over(format!("connection {conn}"), stream));
    }

    /// Breaks a connection.
    pub fn cut(&mut self, conn: u32) {
        assert!(self.peers.remove(&conn).is_some(), "connection {conn} is not open");
    }

    /// Gives a connection the number it has in the next recording.
    pub fn rename(&mut self, conn: u32, other: u32) {
        let peer = self.peers.remove(&conn);
        self.peers.insert(other, peer.expect("the connection is open"));
    }

    async fn act(&mut self, line: &Line) -> Result<(), String> {
        match (&line.event, line.direction) {
            (Event::Note(_), _) => {}
            (Event::Cut | Event::Reset, _) => {
                self.peers.remove(&line.conn);
            }
            (Event::Open, _) => self.accept(line.conn).await,
            (Event::Packet(packet), Direction::ToPeer) => {
                let packet = match packet {
                    Packet::Publish { topic, payload } => {
                        Packet::publish(topic, self.names.translate_response(payload))
                    }
                    other => other.clone(),
                };
                self.peer(line.conn).send(&packet).await;
            }
            (Event::Fin, Direction::ToPeer) => self.peer(line.conn).finish_sending().await,
            (Event::Packet(recorded), Direction::ToMaster) => {
                let live = self.peer(line.conn).try_next().await?.ok_or("the program closed the connection")?;
                self.names.compare(recorded, &live, Sender::Peer).map_err(|what| format!("{what}\n  got: {live:?}"))?;
            }
            (Event::Fin, Direction::ToMaster) => self.peer(line.conn).try_closed().await?,
        }
        Ok(())
    }
}
