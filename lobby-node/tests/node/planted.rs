//! The checker's own proof on the real service: faults planted between the service and its players, and into the
//! journal, each of which it must report; and runs that never reached their fault, which count for nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mlms_checker::{Options, Rule, Verdict};
use mlms_protocol::reply::Joined;
use mlms_protocol::{
    Answer, Body, Change, Event, JoinStatus, LobbyEvent, LobbyId, Nonce, Seq, ServerFrame, UserId,
};

use crate::simulation::{Trouble, simulate, trouble};

/// Seeds that may pass before a fault must have found its place and its rule.
const SEEDS_MAX: u64 = 60;

/// A mistake that a service could make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// The answer comes before the append: the owner's death loses what was acknowledged.
    AnswerBeforeAppend,
    /// The journal takes what a deposed owner appends, and answers for it.
    FenceSkipped,
    /// The dedupe window is gone: a repeated nonce is a new message.
    DedupeForgotten,
    /// The first missed event is left out.
    OffByOneOnResume,
    /// The first missed event comes twice.
    DuplicateOnResume,
    /// `caught_up` comes before what was missed.
    CaughtUpEarly,
    /// The last events of a connection stay on the way.
    LastBatchDropped,
    /// Two events change places.
    Reordered,
    /// The ok of a join waits behind an event.
    EventBeforeOk,
    /// A body is not what was sent.
    Altered,
    /// An ok names the next message's seq.
    WrongSeqInOk,
    /// An ordered message is dropped though its receiver is connected.
    OrderedDropped,
    /// A page of history leaves an event out.
    HoleInHistory,
    /// Who has left goes on hearing.
    DeliveredAfterLeave,
    /// Who was kicked or banned goes on hearing.
    DeliveredAfterBan,
    /// A snapshot's position lies behind its time.
    StaleSnapshot,
}

/// Makes one mistake, for all players of a run, and counts how often it was made.
pub(crate) struct Planter {
    mistake: Mistake,
    made: AtomicU64,
    /// What everybody hears, for those who should not.
    heard: Mutex<HashMap<LobbyId, VecDeque<Event>>>,
}

/// One player's share of it.
pub(crate) struct Mangler {
    planter: Arc<Planter>,
    user: UserId,
    /// Lobbies whose next sequenced event is dropped, or doubled.
    touched: BTreeSet<LobbyId>,
    /// A frame that waits for the next event of this lobby.
    kept: Option<(LobbyId, ServerFrame)>,
    left: BTreeMap<LobbyId, usize>,
    frames: u64,
}

impl Planter {
    pub(crate) fn new(mistake: Mistake) -> Arc<Planter> {
        Arc::new(Planter { mistake, made: AtomicU64::new(0), heard: Mutex::default() })
    }

    pub(crate) fn mistake(&self) -> Mistake {
        self.mistake
    }

    pub(crate) fn made(&self) {
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn mangler(self: &Arc<Self>, user: &UserId) -> Mangler {
        Mangler {
            planter: Arc::clone(self),
            user: user.clone(),
            touched: BTreeSet::new(),
            kept: None,
            left: BTreeMap::new(),
            frames: 0,
        }
    }
}

fn lobby_event(frame: &ServerFrame) -> Option<&LobbyEvent> {
    match frame {
        ServerFrame::Event(Event::Lobby(event)) => Some(event),
        _ => None,
    }
}

/// The lobbies of a reply that were resumed into a gap.
fn resumed_into_gap(frame: &ServerFrame) -> Vec<Joined> {
    let ServerFrame::Reply { outcome: Ok(answer), .. } = frame else { return Vec::new() };
    let joined: Vec<&Joined> = match answer {
        Answer::Joined(joined) => vec![joined],
        Answer::Resumed(outcomes) => outcomes.iter().flatten().collect(),
        _ => Vec::new(),
    };
    joined.into_iter().filter(|one| one.status == JoinStatus::Resumed && one.missed > 0).cloned().collect()
}

impl Mangler {
    /// The nonce as the service gets it, of a message that is sent for the `time`-th time.
    pub(crate) fn nonce(&self, nonce: &Nonce, is_repeat: bool) -> Nonce {
        if self.planter.mistake == Mistake::DedupeForgotten && is_repeat {
            self.planter.made();
            return Nonce::new(&format!("{nonce}'")).expect("nonces of these tests are short");
        }
        nonce.clone()
    }

    /// The player's `leave` got its ok.
    pub(crate) fn left(&mut self, lobby: &LobbyId) {
        if self.planter.mistake == Mistake::DeliveredAfterLeave {
            self.go_on_hearing(lobby);
        }
    }

    fn go_on_hearing(&mut self, lobby: &LobbyId) {
        let heard = self.planter.heard.lock().unwrap();
        self.left.insert(lobby.clone(), heard.get(lobby).map_or(0, VecDeque::len));
    }

    /// A frame as the player gets it: none, itself, or several.
    pub(crate) fn mangle(&mut self, frame: ServerFrame) -> Vec<ServerFrame> {
        self.frames += 1;
        let planter = Arc::clone(&self.planter);
        let made = |frames| {
            planter.made();
            frames
        };
        match planter.mistake {
            Mistake::AnswerBeforeAppend | Mistake::FenceSkipped => vec![frame],
            Mistake::DedupeForgotten => vec![with_plain_nonce(frame)],
            Mistake::OffByOneOnResume | Mistake::DuplicateOnResume => {
                self.touched.extend(resumed_into_gap(&frame).into_iter().map(|joined| joined.lobby));
                match lobby_event(&frame).cloned() {
                    Some(event) if self.touched.remove(&event.lobby) => {
                        let doubled = planter.mistake == Mistake::DuplicateOnResume;
                        made(if doubled {
                            vec![frame, ServerFrame::Event(Event::Lobby(event))]
                        } else {
                            vec![]
                        })
                    }
                    _ => vec![frame],
                }
            }
            Mistake::CaughtUpEarly => {
                let early = resumed_into_gap(&frame).into_iter().map(|joined| {
                    let seq = Seq(joined.seq.0 + joined.missed);
                    ServerFrame::Event(Event::CaughtUp { lobby: joined.lobby, seq })
                });
                let early: Vec<_> = early.collect();
                if early.is_empty() {
                    return vec![frame];
                }
                made(std::iter::once(frame).chain(early).collect())
            }
            Mistake::LastBatchDropped => match lobby_event(&frame) {
                // From some event on nothing of this lobby arrives any more, as when nobody asks for the last batch.
                Some(event) if self.frames > 150 || self.touched.contains(&event.lobby) => {
                    self.touched.insert(event.lobby.clone());
                    made(vec![])
                }
                _ => vec![frame],
            },
            Mistake::Reordered => {
                if let Some((lobby, kept)) = self.kept.take() {
                    if lobby_event(&frame).is_some_and(|event| event.lobby == lobby) {
                        return made(vec![frame, kept]);
                    }
                    if matches!(frame, ServerFrame::Event(_)) {
                        self.kept = Some((lobby, kept));
                        return vec![frame];
                    }
                    return vec![kept, frame];
                }
                match lobby_event(&frame) {
                    Some(event) if self.frames.is_multiple_of(5) => {
                        self.kept = Some((event.lobby.clone(), frame));
                        vec![]
                    }
                    _ => vec![frame],
                }
            }
            Mistake::EventBeforeOk => {
                if let Some((lobby, kept)) = self.kept.take() {
                    if lobby_event(&frame).is_some_and(|event| event.lobby == lobby) {
                        return made(vec![frame, kept]);
                    }
                    return vec![kept, frame];
                }
                match &frame {
                    ServerFrame::Reply { outcome: Ok(Answer::Joined(joined)), .. } => {
                        self.kept = Some((joined.lobby.clone(), frame));
                        vec![]
                    }
                    _ => vec![frame],
                }
            }
            Mistake::Altered => match frame {
                ServerFrame::Event(Event::Lobby(mut event)) if self.frames.is_multiple_of(20) => {
                    if let Change::Message { body, .. } = &mut event.change {
                        *body = Body::text("something else");
                        planter.made();
                    }
                    vec![ServerFrame::Event(Event::Lobby(event))]
                }
                frame => vec![frame],
            },
            Mistake::WrongSeqInOk => match frame {
                ServerFrame::Reply { id, outcome: Ok(Answer::Sent { epoch, seq, at, dup }) } => {
                    made(vec![ServerFrame::Reply {
                        id,
                        outcome: Ok(Answer::Sent { epoch, seq: seq.next(), at, dup }),
                    }])
                }
                frame => vec![frame],
            },
            Mistake::OrderedDropped => match &frame {
                ServerFrame::Event(Event::Message(_)) if self.frames.is_multiple_of(3) => made(vec![]),
                _ => vec![frame],
            },
            Mistake::HoleInHistory => match frame {
                ServerFrame::Reply { id, outcome: Ok(Answer::History { mut events, more }) }
                    if events.len() > 2 =>
                {
                    events.remove(1);
                    made(vec![ServerFrame::Reply { id, outcome: Ok(Answer::History { events, more }) }])
                }
                frame => vec![frame],
            },
            Mistake::DeliveredAfterLeave => self.deliver_after_the_end(frame),
            Mistake::DeliveredAfterBan => {
                let removed = lobby_event(&frame).filter(|event| match &event.change {
                    Change::Kicked { user, .. } | Change::Banned { user, .. } => *user == self.user,
                    _ => false,
                });
                let removed = removed.map(|event| event.lobby.clone());
                let frames = self.deliver_after_the_end(frame);
                if let Some(lobby) = removed {
                    self.go_on_hearing(&lobby);
                }
                frames
            }
            Mistake::StaleSnapshot => match frame {
                ServerFrame::Reply { id, outcome: Ok(Answer::Joined(mut joined)) }
                    if joined.status != JoinStatus::Resumed && joined.seq.0 > 1 =>
                {
                    joined.seq = Seq(joined.seq.0 - 1);
                    made(vec![ServerFrame::Reply { id, outcome: Ok(Answer::Joined(joined)) }])
                }
                frame => vec![frame],
            },
        }
    }

    fn deliver_after_the_end(&mut self, frame: ServerFrame) -> Vec<ServerFrame> {
        let mut frames = Vec::new();
        let mut heard = self.planter.heard.lock().unwrap();
        for (lobby, known) in &mut self.left {
            // What came after the leave's own `left`, surely sent later.
            let later = heard.get(lobby).map_or(0, VecDeque::len);
            if later > *known + 8 {
                frames.push(ServerFrame::Event(heard[lobby][later - 1].clone()));
                *known = later;
                self.planter.made();
            }
        }
        if let ServerFrame::Event(Event::Lobby(event)) = &frame
            && matches!(event.change, Change::Message { .. })
        {
            heard.entry(event.lobby.clone()).or_default().push_back(Event::Lobby(event.clone()));
            self.left.remove(&event.lobby);
        }
        frames.push(frame);
        frames
    }
}

/// The players know nothing of the nonce that the service got.
fn with_plain_nonce(frame: ServerFrame) -> ServerFrame {
    match frame {
        ServerFrame::Event(Event::Lobby(mut event)) => {
            if let Change::Message { nonce: Some(nonce), .. } = &mut event.change
                && let Some(plain) = nonce.as_str().strip_suffix('\'')
            {
                *nonce = Nonce::new(plain).expect("a shorter nonce");
            }
            ServerFrame::Event(Event::Lobby(event))
        }
        frame => frame,
    }
}

/// Plays seeds with this mistake until the checker reports it under one of the rules.
#[track_caller]
#[expect(clippy::print_stdout, reason = "how soon a mistake was found is for people to read")]
fn is_reported(mistake: Mistake, during: Trouble, rules: &[Rule]) {
    let mut planted = 0;
    for seed in (0..).filter(|seed| trouble(*seed) == during).take(SEEDS_MAX as usize) {
        let planter = Planter::new(mistake);
        // A run that a mistake upsets is judged all the same.
        let (history, _) = simulate(seed, Some(Arc::clone(&planter)));
        if planter.made.load(Ordering::Relaxed) == 0 {
            continue;
        }
        planted += 1;
        let report = history.judge(&Options::default());
        if rules.iter().any(|rule| report.broke(*rule)) {
            assert_eq!(report.verdict(), Verdict::Failed);
            println!("{mistake:?}: reported in seed {seed}, the {planted}. run with it: {:?}", report.totals);
            return;
        }
        // Not every place where it is made can be seen: a second one, or an owner's death, must come to it.
        assert!(planted < 5, "{mistake:?} was made in {planted} runs and is not reported\n{report}");
    }
    panic!("{mistake:?} found no place");
}

#[test]
fn an_answer_before_the_append_is_reported() {
    let rules = [Rule::AckedLost, Rule::DeliveredLost, Rule::OneEventPerSeq, Rule::StaleRead];
    is_reported(Mistake::AnswerBeforeAppend, Trouble::Kills, &rules);
}

#[test]
fn an_append_of_a_deposed_owner_is_reported() {
    let rules = [Rule::AckedLost, Rule::DeliveredLost, Rule::OneEventPerSeq];
    is_reported(Mistake::FenceSkipped, Trouble::Blind, &rules);
}

#[test]
fn a_forgotten_dedupe_window_is_reported() {
    is_reported(Mistake::DedupeForgotten, Trouble::Players, &[Rule::NonceOnce]);
}

#[test]
fn an_off_by_one_on_resume_is_reported() {
    is_reported(Mistake::OffByOneOnResume, Trouble::Players, &[Rule::Gap]);
}

#[test]
fn a_duplicate_on_resume_is_reported() {
    is_reported(Mistake::DuplicateOnResume, Trouble::Players, &[Rule::Duplicate]);
}

#[test]
fn an_early_caught_up_is_reported() {
    is_reported(Mistake::CaughtUpEarly, Trouble::Players, &[Rule::CaughtUp]);
}

#[test]
fn a_lost_last_batch_is_reported() {
    is_reported(Mistake::LastBatchDropped, Trouble::Players, &[Rule::Incomplete]);
}

#[test]
fn a_changed_order_is_reported() {
    is_reported(Mistake::Reordered, Trouble::Players, &[Rule::Reordered]);
}

#[test]
fn an_event_before_the_ok_of_a_join_is_reported() {
    is_reported(Mistake::EventBeforeOk, Trouble::Players, &[Rule::BeforeJoin]);
}

#[test]
fn an_altered_body_is_reported() {
    is_reported(Mistake::Altered, Trouble::Players, &[Rule::Altered]);
}

#[test]
fn a_wrong_seq_in_an_ok_is_reported() {
    is_reported(Mistake::WrongSeqInOk, Trouble::Players, &[Rule::AckedLost]);
}

#[test]
fn a_dropped_ordered_message_is_reported() {
    is_reported(Mistake::OrderedDropped, Trouble::Players, &[Rule::OrderedLost]);
}

#[test]
fn a_hole_in_a_page_of_history_is_reported() {
    is_reported(Mistake::HoleInHistory, Trouble::Players, &[Rule::HistoryGap, Rule::AckedLost]);
}

#[test]
fn a_delivery_after_a_leave_is_reported() {
    is_reported(Mistake::DeliveredAfterLeave, Trouble::Players, &[Rule::AfterLeave]);
}

#[test]
fn a_delivery_after_a_ban_is_reported() {
    is_reported(Mistake::DeliveredAfterBan, Trouble::Players, &[Rule::AfterRemoval]);
}

#[test]
fn a_stale_snapshot_is_reported() {
    is_reported(Mistake::StaleSnapshot, Trouble::Players, &[Rule::StaleRead, Rule::Gap]);
}

#[test]
fn a_run_that_never_reached_its_fault_is_void() {
    let seed = (0..).find(|seed| trouble(*seed) == Trouble::Players).unwrap();
    let (history, failures) = simulate(seed, None);
    assert_eq!(failures, [""; 0]);
    assert_eq!(history.judge(&Options::default()).verdict(), Verdict::Passed);
    for missing in ["fault:node_killed", "fault:cut", "owner_change=100000"] {
        let options = Options { require: vec![missing.parse().unwrap()], ..Options::default() };
        assert_eq!(history.judge(&options).verdict(), Verdict::Void, "{missing}");
    }
}
