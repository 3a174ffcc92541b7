//! The rules that can be held while a run goes on, at a few numbers an event: for load tests.
//!
//! One [`LobbyRules`] a lobby sees what is sent, acknowledged and observed by anybody; one [`MemberRules`] a session
//! and lobby sees what that session gets. Calls are made in the order in which things happen (behind a lock
//! where threads share a lobby). Events are known by a [`fingerprint`] of sender, nonce and body. Memory is bounded by
//! the window; what left it is no longer compared. Only the whole-history check reads final histories.

use std::collections::{HashMap, VecDeque};

use crate::chain::{Chain, Hole};
use crate::record::Position;
use crate::rule::{Fault, Rule};

/// Digests parts (sender, nonce, body …) into the number by which an event is known; not for adversaries.
pub fn fingerprint(parts: &[&[u8]]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        for chunk in [&(part.len() as u64).to_le_bytes()[..], part].iter().flat_map(|bytes| bytes.chunks(8)) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(PRIME);
            hash ^= hash >> 29;
        }
    }
    hash
}

#[derive(Clone, Copy)]
struct Sent {
    /// The highest seq known before the first attempt.
    floor: u64,
    acked: Option<u64>,
    seen: Option<u64>,
    refused: bool,
}

#[derive(Clone, Copy)]
struct Seen {
    epoch: u64,
    event: u64,
}

/// What holds for a lobby whoever looks: one event a seq, one seq an event, real-time order, epochs, nothing
/// invented, nothing acknowledged that nobody sees.
pub struct LobbyRules {
    window: usize,
    /// The seq of the first entry of `seen`.
    first: u64,
    seen: VecDeque<Option<Seen>>,
    sent: HashMap<u64, Sent>,
    /// Sent events in order, to forget the oldest.
    order: VecDeque<u64>,
    known: u64,
    owner_changes: u64,
    retried: u64,
}

impl LobbyRules {
    /// `window`: how many seqs and how many sends are remembered (32 and about 50 bytes each).
    pub fn new(window: usize) -> LobbyRules {
        LobbyRules {
            window: window.max(1),
            first: 1,
            seen: VecDeque::new(),
            sent: HashMap::new(),
            order: VecDeque::new(),
            known: 0,
            owner_changes: 0,
            retried: 0,
        }
    }

    /// Call before a durable message leaves; again for each retry with its nonce.
    ///
    /// # Errors
    /// [`Rule::AckedLost`] when a send that now leaves the window got its ok and was never observed.
    pub fn sent(&mut self, event: u64) -> Result<(), Fault> {
        if let Some(sent) = self.sent.get_mut(&event) {
            self.retried += 1;
            sent.refused = false;
            return Ok(());
        }
        self.sent.insert(event, Sent { floor: self.known, acked: None, seen: None, refused: false });
        self.order.push_back(event);
        if self.order.len() <= self.window {
            return Ok(());
        }
        let oldest = self.order.pop_front().and_then(|event| self.sent.remove(&event));
        oldest.map_or(Ok(()), |sent| unseen(&sent))
    }

    /// Call when an ok came.
    ///
    /// # Errors
    /// [`Rule::NonceOnce`], [`Rule::RealTime`], [`Rule::OneEventPerSeq`].
    pub fn acked(&mut self, event: u64, seq: u64) -> Result<(), Fault> {
        let other = self.at(seq).filter(|seen| seen.event != event);
        let known = self.known;
        self.known = known.max(seq);
        let Some(sent) = self.sent.get_mut(&event) else { return Ok(()) };
        let before = sent.acked.or(sent.seen);
        sent.acked = Some(seq);
        if let Some(before) = before.filter(|before| *before != seq) {
            return breach(Rule::NonceOnce, format!("the event of seq {before} got an ok with seq {seq}"));
        }
        if seq <= sent.floor {
            let text = format!("seq {} was known before the send that got seq {seq}", sent.floor);
            return breach(Rule::RealTime, text);
        }
        if other.is_some() {
            return breach(Rule::OneEventPerSeq, format!("seq {seq} was acknowledged for another event"));
        }
        Ok(())
    }

    /// Call when a message was refused for good.
    ///
    /// # Errors
    /// [`Rule::RefusedHappened`] when it was observed already.
    pub fn refused(&mut self, event: u64) -> Result<(), Fault> {
        match self.sent.get_mut(&event) {
            Some(Sent { seen: Some(seq), .. }) => {
                breach(Rule::RefusedHappened, format!("the event of seq {seq} was refused"))
            }
            Some(sent) => {
                sent.refused = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Call for every sequenced event that any session gets. `is_message`: a player sent it, so a send must explain
    /// it while the window reaches back so far.
    ///
    /// # Errors
    /// [`Rule::OneEventPerSeq`], [`Rule::OneSeqPerEvent`], [`Rule::EpochBack`], [`Rule::Invented`],
    /// [`Rule::RealTime`], [`Rule::RefusedHappened`].
    pub fn observed(&mut self, epoch: u64, seq: u64, event: u64, is_message: bool) -> Result<(), Fault> {
        if seq < self.first {
            return Ok(());
        }
        if let Some(seen) = self.at(seq) {
            if seen.event != event || seen.epoch != epoch {
                return breach(Rule::OneEventPerSeq, format!("two events have seq {seq}"));
            }
            return Ok(());
        }
        self.remember(seq, Seen { epoch, event });
        self.known = self.known.max(seq);
        self.judge_epoch(epoch, seq)?;
        if is_message { self.judge_cause(seq, event) } else { Ok(()) }
    }

    /// Call at the end, when everything has had time to arrive.
    pub fn finish(&self) -> Vec<Fault> {
        self.sent.values().filter_map(|sent| unseen(sent).err()).collect()
    }

    /// The lowest seq that got its ok and was not observed by anybody yet. A caller who reads it in the lobby's
    /// history tells it to [`LobbyRules::observed`].
    pub fn unseen(&self) -> Option<u64> {
        self.sent.values().filter(|sent| sent.seen.is_none()).filter_map(|sent| sent.acked).min()
    }

    /// The seqs from `from` on, up to `to`, that got their ok.
    pub fn acked_between(&self, from: u64, to: u64) -> impl Iterator<Item = u64> {
        self.sent.values().filter_map(|sent| sent.acked).filter(move |seq| (from..=to).contains(seq))
    }

    /// The highest seq that anybody knows: what every member must reach in the end.
    pub fn head(&self) -> u64 {
        self.known
    }

    /// Changes of epoch along seq.
    pub fn owner_changes(&self) -> u64 {
        self.owner_changes
    }

    /// Sends that were repeated.
    pub fn retried(&self) -> u64 {
        self.retried
    }

    fn at(&self, seq: u64) -> Option<Seen> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.seen.get(index).copied().flatten()
    }

    fn remember(&mut self, seq: u64, seen: Seen) {
        let window = self.window as u64;
        // A start or a jump beyond the window begins it anew, instead of filling it with nothing.
        if self.seen.is_empty() || seq - self.first >= 2 * window {
            self.seen.clear();
            self.first = seq.saturating_sub(window / 2).max(1);
        }
        let index = (seq - self.first) as usize;
        if index >= self.seen.len() {
            self.seen.resize(index + 1, None);
        }
        self.seen[index] = Some(seen);
        while self.seen.len() > self.window {
            self.seen.pop_front();
            self.first += 1;
        }
    }

    fn judge_epoch(&mut self, epoch: u64, seq: u64) -> Result<(), Fault> {
        let before = seq.checked_sub(1).and_then(|seq| self.at(seq));
        let after = self.at(seq.saturating_add(1));
        let is_change = before.is_some_and(|before| before.epoch < epoch);
        self.owner_changes += u64::from(is_change);
        let is_back = before.is_some_and(|before| before.epoch > epoch)
            || after.is_some_and(|after| after.epoch < epoch);
        if is_back {
            return breach(
                Rule::EpochBack,
                format!("epoch {epoch} at seq {seq} does not fit its neighbours"),
            );
        }
        Ok(())
    }

    fn judge_cause(&mut self, seq: u64, event: u64) -> Result<(), Fault> {
        let forgets = self.order.len() == self.window;
        let Some(sent) = self.sent.get_mut(&event) else {
            if forgets {
                return Ok(());
            }
            return breach(Rule::Invented, format!("seq {seq} is a message that nobody sent"));
        };
        let before = sent.seen.or(sent.acked);
        sent.seen = Some(seq);
        if let Some(before) = before.filter(|before| *before != seq) {
            return breach(Rule::OneSeqPerEvent, format!("one event has the seqs {before} and {seq}"));
        }
        if sent.refused {
            return breach(Rule::RefusedHappened, format!("seq {seq} is a message that was refused"));
        }
        if seq <= sent.floor {
            let text = format!("seq {} was known before the send that got seq {seq}", sent.floor);
            return breach(Rule::RealTime, text);
        }
        Ok(())
    }
}

fn unseen(sent: &Sent) -> Result<(), Fault> {
    match (sent.acked, sent.seen) {
        (Some(seq), None) => {
            breach(Rule::AckedLost, format!("seq {seq} got its ok and was never seen by anybody"))
        }
        _ => Ok(()),
    }
}

fn breach(rule: Rule, text: String) -> Result<(), Fault> {
    Err(Fault::new(rule, text))
}

/// What holds for one session in one lobby: the chain of seqs, each sender's order, nothing after a removal.
#[derive(Default)]
pub struct MemberRules {
    chain: Chain,
    /// The next number that each sender's unsequenced messages must at least have.
    heard: HashMap<u64, u64>,
    removed_at: Option<u64>,
    skipped: u64,
}

impl MemberRules {
    /// The session's chain: `entered`, `resumed`, `caught_up` and `detached` are called on it.
    pub fn chain(&mut self) -> &mut Chain {
        &mut self.chain
    }

    /// The last position, if the session ever had one.
    pub fn position(&self) -> Option<Position> {
        self.chain.position()
    }

    /// Whether missed events are still to come.
    pub fn is_catching_up(&self) -> bool {
        self.chain.is_catching_up()
    }

    /// Takes a `joined` or `snapshot`; a removal before it no longer counts.
    ///
    /// # Errors
    /// As [`Chain::entered`].
    pub fn entered(&mut self, position: Position) -> Result<(), Fault> {
        self.removed_at = self.removed_at.filter(|seq| position.seq < *seq);
        self.chain.entered(position)
    }

    /// A kick or ban of this session's user got its ok, with this seq.
    pub fn removed(&mut self, seq: u64) {
        self.removed_at = Some(seq);
    }

    /// Takes a sequenced event; `mark` is the caller's note of where it was.
    ///
    /// # Errors
    /// [`Rule::AfterRemoval`], and as [`Chain::delivered`].
    pub fn delivered(&mut self, epoch: u64, seq: u64, mark: u64) -> Result<(), Fault> {
        self.chain.delivered(epoch, seq, mark)?;
        match self.removed_at {
            Some(removed) if seq > removed => {
                breach(Rule::AfterRemoval, format!("got seq {seq} after the removal at seq {removed}"))
            }
            _ => Ok(()),
        }
    }

    /// Takes an unsequenced message: the `index`-th (from 0) that `sender`'s connection sent to this lobby.
    /// Indexes that are passed over are counted in [`MemberRules::skipped`]; the first one heard starts the count.
    ///
    /// # Errors
    /// [`Rule::BeforeJoin`], [`Rule::Duplicate`] for the last one again, [`Rule::SenderOrder`] for an earlier one.
    pub fn unsequenced(&mut self, sender: u64, index: u64) -> Result<(), Fault> {
        if !self.chain.is_in() {
            return breach(Rule::BeforeJoin, "an unsequenced message came before the ok".to_owned());
        }
        let next = self.heard.entry(sender).or_insert(index);
        if index + 1 == *next {
            return breach(Rule::Duplicate, format!("message {index} of a sender came again"));
        }
        if index < *next {
            return breach(
                Rule::SenderOrder,
                format!("message {index} of a sender came after {}", *next - 1),
            );
        }
        self.skipped += index - *next;
        *next = index + 1;
        Ok(())
    }

    /// The number that the next unsequenced message of this sender must at least have; `None`: none was heard.
    pub fn heard(&self, sender: u64) -> Option<u64> {
        self.heard.get(&sender).copied()
    }

    /// Unsequenced messages that were passed over so far: lost, where nothing excuses it.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Call at the end, with the lobby's head when the session is still in the lobby.
    pub fn finish(&mut self, head: Option<u64>) -> Vec<Fault> {
        let reached = self.chain.position().map_or(0, |position| position.seq);
        let (is_in, is_catching_up) = (self.chain.is_in(), self.chain.is_catching_up());
        self.chain.detached();
        let mut faults: Vec<Fault> = self.chain.take_gaps().into_iter().map(Hole::fault).collect();
        if let Some(head) = head.filter(|head| is_in && reached < *head) {
            let text = format!("ended at seq {reached} of {head}");
            faults.push(Fault::new(Rule::Incomplete, text));
        }
        if is_catching_up && head.is_some() {
            faults.push(Fault::new(Rule::CaughtUp, "caught_up never came".to_owned()));
        }
        faults
    }
}
