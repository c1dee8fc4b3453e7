//! What the master has asked of this monitor, so that nothing is carried out twice.
//!
//! A master repeats what was not answered when its server is back. If the link broke silently, the first copy may well
//! have arrived, and only its answer was lost. So what this process has begun is not begun again: the repetition gets the
//! answer that there was, or the one that is to come.
//!
//! A repetition is known by its id, which is a text then (pinus sends a number, and is not recognised), and by its content:
//! each life of a master counts from 1.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    modules::call::{Outcome, Responder},
    session::Reply,
    wire::envelope::ReqId,
};

/// Requests that are remembered: as many as a master keeps to repeat them to one server.
const REMEMBERED: usize = 1024;

/// What the answers that are kept for a repetition may take, in bytes. Most are a line or two; of those that are not, the
/// newest are kept.
const KEPT: usize = 1024 * 1024;

/// The requests of the master that this process has begun.
#[derive(Debug, Default)]
pub(crate) struct Asked(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// By age: the first one has the number `first`, and each the next.
    requests: VecDeque<Request>,
    first: u64,
    /// Bytes of the answers that are kept.
    kept: usize,
}

#[derive(Debug)]
struct Request {
    /// None if it was refused.
    id: Option<u64>,
    /// Of module and body.
    digest: u64,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    /// It is to come; if it was asked for again, there.
    Awaited(Option<Reply>),
    /// JSON texts, empty for absent fields.
    Kept { error: Bytes, body: Bytes },
    /// It was too large to be kept.
    Forgotten,
}

/// A request that was begun. Its answer goes to where it was asked for last.
#[derive(Debug)]
#[must_use = "the master waits for this"]
pub(crate) struct Begun {
    asked: Arc<Asked>,
    number: u64,
    reply: Reply,
}

impl Asked {
    /// Who waits for the answer to a request that just came; nobody if it was begun before, and is not to be begun again.
    pub(crate) fn begin(self: &Arc<Asked>, id: &ReqId, module: &str, body: &str, reply: Reply) -> Option<Responder> {
        let (id, repeated) = match id {
            ReqId::Number(id) => (*id, false),
            ReqId::Raw(raw) => match raw.trim_matches('"').parse() {
                Ok(id) => (id, true),
                Err(_) => return Some(Responder::Session(reply)),
            },
        };
        let mut hasher = DefaultHasher::new();
        (module, body).hash(&mut hasher);
        let digest = hasher.finish();
        let mut table = self.0.lock();
        let is_it = |request: &&mut Request| repeated && request.id == Some(id) && request.digest == digest;
        if let Some(begun) = table.requests.iter_mut().rev().find(is_it) {
            match &mut begun.answer {
                Answer::Awaited(again) => *again = Some(reply),
                Answer::Kept { error, body } => reply.send(error, body),
                Answer::Forgotten => reply.end(Outcome::Failed(
                    "this was carried out before the link was lost; the answer was too large to be kept",
                )),
            }
            return None;
        }
        let number = table.remember(Request { id: Some(id), digest, answer: Answer::Awaited(None) });
        Some(Responder::Repeatable(Box::new(Begun { asked: self.clone(), number, reply })))
    }
}

impl Table {
    fn remember(&mut self, request: Request) -> u64 {
        if self.requests.len() == REMEMBERED {
            self.kept -= self.requests.pop_front().map_or(0, |oldest| oldest.answer.size());
            self.first += 1;
        }
        self.requests.push_back(request);
        self.first + self.requests.len() as u64 - 1
    }

    fn find(&mut self, number: u64) -> Option<&mut Request> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.requests.get_mut(at)
    }

    /// Keeps an answer for a repetition. Returns where it was asked for again.
    fn answered(&mut self, number: u64, error: &[u8], body: &[u8]) -> Option<Reply> {
        let size = error.len() + body.len();
        let keep = size <= KEPT;
        let answer = if keep {
            Answer::Kept { error: Bytes::copy_from_slice(error), body: Bytes::copy_from_slice(body) }
        } else {
            Answer::Forgotten
        };
        let again = match std::mem::replace(&mut self.find(number)?.answer, answer) {
            Answer::Awaited(again) => again,
            Answer::Kept { .. } | Answer::Forgotten => None,
        };
        self.kept += if keep { size } else { 0 };
        for request in &mut self.requests {
            if self.kept <= KEPT {
                break;
            }
            if let Answer::Kept { .. } = request.answer {
                self.kept -= request.answer.size();
                request.answer = Answer::Forgotten;
            }
        }
        again
    }

    /// It was not carried out: a repetition is as good as the first.
    fn withdraw(&mut self, number: u64) {
        if let Some(request) = self.find(number) {
            request.id = None;
        }
    }
}

impl Answer {
    fn size(&self) -> usize {
        match self {
            Answer::Kept { error, body } => error.len() + body.len(),
            Answer::Awaited(_) | Answer::Forgotten => 0,
        }
    }
}

impl Begun {
    /// Ends the request.
    pub(crate) fn end(self, outcome: Outcome<'_>) {
        let (error, body) = outcome.texts();
        let again = self.asked.0.lock().answered(self.number, &error, body);
        again.unwrap_or(self.reply).send(&error, body);
    }

    /// Says that it is not carried out.
    pub(crate) fn refuse(self, text: &str) {
        self.asked.0.lock().withdraw(self.number);
        self.reply.refuse(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{session::outbox::Outbox, wire::Topic};

    /// A link to the master, and what was sent over it.
    struct Link(Arc<Outbox>);

    impl Link {
        fn new() -> Link {
            Link(Arc::new(Outbox::without_socket(16 * KEPT)))
        }

        fn ask(&self, asked: &Arc<Asked>, id: ReqId, body: &str) -> Option<Responder> {
            let reply = Reply::new(self.0.clone(), Topic::Monitor, id.clone());
            asked.begin(&id, "echo", body, reply)
        }

        /// The texts of the answers since the last look.
        fn got(&self) -> String {
            let mut frames = VecDeque::new();
            self.0.take(&mut frames);
            String::from_utf8_lossy(&frames.into_iter().flatten().collect::<Vec<u8>>()).replace('\\', "")
        }
    }

    fn first(id: u64) -> ReqId {
        ReqId::Number(id)
    }

    fn again(id: u64) -> ReqId {
        ReqId::Raw(format!("\"{id}\"").into())
    }

    fn answer(body: &str) -> Outcome<'_> {
        Outcome::Answer { error: b"null", body: body.as_bytes() }
    }

    #[test]
    fn a_repetition_gets_the_answer_that_there_was() {
        let (asked, old, new) = (Arc::default(), Link::new(), Link::new());
        old.ask(&asked, first(1), "{}").unwrap().end(answer("7"));
        assert!(old.got().contains(r#"{"respId":1,"error":null,"body":7}"#));
        assert!(new.ask(&asked, again(1), "{}").is_none());
        assert!(new.got().contains(r#"{"respId":"1","error":null,"body":7}"#));
        assert!(new.ask(&asked, again(1), "{}").is_none(), "however often");
    }

    #[test]
    fn a_repetition_of_what_is_under_way_gets_the_answer_that_comes() {
        let (asked, old, new) = (Arc::default(), Link::new(), Link::new());
        let begun = old.ask(&asked, first(1), "{}").unwrap();
        assert!(new.ask(&asked, again(1), "{}").is_none());
        begun.end(answer("7"));
        assert_eq!(old.got(), "");
        assert!(new.got().contains(r#"{"respId":"1","error":null,"body":7}"#));
    }

    #[test]
    fn what_another_life_of_the_master_asks_and_what_was_refused_is_begun() {
        let (asked, link) = (Arc::default(), Link::new());
        link.ask(&asked, first(1), "{}").unwrap().end(answer("7"));
        assert!(link.ask(&asked, first(1), "{}").is_some(), "a number is no repetition");
        assert!(link.ask(&asked, again(2), "{}").is_some(), "the first copy never came");
        assert!(link.ask(&asked, again(1), "[]").is_some(), "another content");
        let Some(Responder::Repeatable(busy)) = link.ask(&asked, first(3), "{}") else { panic!("it is new") };
        busy.refuse("busy");
        assert!(link.ask(&asked, again(3), "{}").is_some());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_nothing_is_done_twice_for_that() {
        let (asked, link): (Arc<Asked>, _) = (Arc::default(), Link::new());
        let large = format!("{:?}", "x".repeat(KEPT / 2));
        for id in 1..=3 {
            link.ask(&asked, first(id), "{}").unwrap().end(answer(&large));
        }
        assert!(asked.0.lock().kept <= KEPT);
        link.got();
        assert!(link.ask(&asked, again(1), "{}").is_none());
        assert!(link.got().contains("too large to be kept"));
        assert!(link.ask(&asked, again(3), "{}").is_none());
        assert!(link.got().contains("xxx"));
        let slow = link.ask(&asked, first(4), "{}").unwrap();
        for id in 5..=5 + REMEMBERED as u64 {
            link.ask(&asked, first(id), "{}").unwrap().end(answer("1"));
        }
        assert_eq!(asked.0.lock().requests.len(), REMEMBERED);
        assert_eq!(asked.0.lock().kept, REMEMBERED * "null1".len());
        link.got();
        slow.end(answer("late"));
        assert!(link.got().contains("late"), "an answer arrives, remembered or not");
    }
}
