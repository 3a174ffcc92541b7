//! One session chain's way through one lobby: +1, +1, … from the position at which it entered.
//!
//! Both the whole-history judge and the online rules step it once an event. It holds a few numbers, does no
//! I/O and allocates only where the order is broken.

use crate::record::Position;
use crate::rule::{Fault, Rule};

/// Jumps whose missing events may still come; the oldest beyond them counts as a gap at once.
const HOLES_MAX: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    /// Not in the lobby on this connection.
    #[default]
    Out,
    /// Resumed; the missed events come first.
    CatchingUp {
        from: u64,
        missed: u64,
    },
    Live,
}

/// Events that a session did not get in their place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hole {
    pub first: u64,
    pub last: u64,
    /// The caller's note of where the jump was seen: a line number, a time.
    pub mark: u64,
}

impl Hole {
    /// Says it as a breach of [`Rule::Gap`].
    pub fn fault(self) -> Fault {
        let Hole { first, last, .. } = self;
        Fault::new(Rule::Gap, format!("events {first} to {last} were skipped without a snapshot"))
    }
}

/// The position of one session chain in one lobby, kept across its connections.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    state: State,
    known: bool,
    position: Position,
    holes: Vec<Hole>,
    gaps: Vec<Hole>,
}

impl Chain {
    /// Last position, if the chain ever had one.
    pub fn position(&self) -> Option<Position> {
        self.known.then_some(self.position)
    }

    /// True between an ok of join or resume and the loss of the connection.
    pub fn is_in(&self) -> bool {
        self.state != State::Out
    }

    /// True when everything that comes is live: joined, or resumed and caught up.
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// True between the ok of a resume and its `caught_up`.
    pub fn is_catching_up(&self) -> bool {
        matches!(self.state, State::CatchingUp { .. })
    }

    /// Takes the position of a `joined` or a `snapshot`.
    ///
    /// # Errors
    /// [`Rule::StaleRead`] when it lies behind what this chain has seen; the position is taken all the same.
    pub fn entered(&mut self, position: Position) -> Result<(), Fault> {
        let before = self.position;
        let back = self.known && position.seq < before.seq && position.epoch <= before.epoch;
        self.give_up_holes();
        self.known = true;
        self.position = position;
        self.state = State::Live;
        if back {
            let text = format!("entered at seq {} after having seen seq {}", position.seq, before.seq);
            return Err(Fault::new(Rule::StaleRead, text));
        }
        Ok(())
    }

    /// Takes the position of a `resumed`, which repeats `since` (left out: the chain's own position).
    ///
    /// # Errors
    /// [`Rule::ResumePosition`] when it is another one; the answer's position counts from then on.
    pub fn resumed(&mut self, position: Position, missed: u64, since: Option<Position>) -> Result<(), Fault> {
        let asked = since.or(self.position());
        self.give_up_holes();
        // The ok may carry a newer owner's epoch than the missed events that follow it.
        let epoch = if self.known && self.position.seq == position.seq { self.position.epoch } else { 0 };
        self.known = true;
        self.position = Position { epoch, seq: position.seq };
        self.state = State::CatchingUp { from: position.seq, missed };
        match asked {
            Some(asked) if asked.seq == position.seq => Ok(()),
            Some(asked) => {
                let text = format!("resumed at seq {} where seq {} was asked for", position.seq, asked.seq);
                Err(Fault::new(Rule::ResumePosition, text))
            }
            None => {
                let text = format!("resumed at seq {} without having had a position", position.seq);
                Err(Fault::new(Rule::ResumePosition, text))
            }
        }
    }

    /// Takes a sequenced event. A jump is no fault yet: it becomes [`Rule::Reordered`] when the missing events
    /// come late, and else a gap that [`Chain::take_gaps`] tells.
    ///
    /// # Errors
    /// [`Rule::BeforeJoin`], [`Rule::Duplicate`], [`Rule::Reordered`], [`Rule::EpochBack`].
    pub fn delivered(&mut self, epoch: u64, seq: u64, mark: u64) -> Result<(), Fault> {
        if self.state == State::Out {
            let text = format!("event {seq} came before the ok of a join or resume");
            return Err(Fault::new(Rule::BeforeJoin, text));
        }
        let before = self.position;
        if seq <= before.seq {
            return Err(self.late(seq));
        }
        if seq - before.seq > 1 {
            self.jump(Hole { first: before.seq + 1, last: seq - 1, mark });
        }
        self.position = Position { epoch, seq };
        if epoch < before.epoch {
            let text = format!("event {seq} has epoch {epoch} after epoch {}", before.epoch);
            return Err(Fault::new(Rule::EpochBack, text));
        }
        Ok(())
    }

    /// Takes a `caught_up`; returns how many missed events came before it.
    ///
    /// # Errors
    /// [`Rule::CaughtUp`] when nothing was resumed, the seq is not the last one sent, or another number of events
    /// came than the ok had said; [`Rule::BeforeJoin`] outside a membership.
    pub fn caught_up(&mut self, seq: u64) -> Result<u64, Fault> {
        let wrong = |text: String| Err(Fault::new(Rule::CaughtUp, text));
        match self.state {
            State::Out => {
                let text = "caught_up came before the ok of a join or resume".to_owned();
                Err(Fault::new(Rule::BeforeJoin, text))
            }
            State::Live => wrong(format!("caught_up at seq {seq}, but nothing was resumed")),
            State::CatchingUp { from, missed } => {
                self.state = State::Live;
                let at = self.position.seq;
                if seq != at {
                    return wrong(format!("caught_up says seq {seq}, but the last event sent was {at}"));
                }
                let got = at.saturating_sub(from);
                if got != missed {
                    return wrong(format!("caught_up after {got} events, but {missed} were missed"));
                }
                Ok(got)
            }
        }
    }

    /// The connection ended: nothing may come before the next join or resume.
    pub fn detached(&mut self) {
        self.give_up_holes();
        self.state = State::Out;
    }

    /// Gaps that are certain: call it at the end, after [`Chain::detached`], or at any time before.
    pub fn take_gaps(&mut self) -> Vec<Hole> {
        std::mem::take(&mut self.gaps)
    }

    fn jump(&mut self, hole: Hole) {
        if self.holes.len() == HOLES_MAX {
            self.gaps.push(self.holes.remove(0));
        }
        self.holes.push(hole);
    }

    fn late(&mut self, seq: u64) -> Fault {
        let at = self.position.seq;
        let Some(place) = self.holes.iter().position(|hole| hole.first <= seq && seq <= hole.last) else {
            return Fault::new(Rule::Duplicate, format!("event {seq} came again; seq {at} was reached"));
        };
        let hole = self.holes.remove(place);
        if seq < hole.last {
            self.holes.insert(place, Hole { first: seq + 1, ..hole });
        }
        if hole.first < seq {
            self.holes.insert(place, Hole { last: seq - 1, ..hole });
        }
        Fault::new(Rule::Reordered, format!("event {seq} came after event {at}"))
    }

    fn give_up_holes(&mut self) {
        self.gaps.append(&mut self.holes);
    }
}
