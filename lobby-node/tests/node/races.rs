//! Two who want things that do not go together, at the same time: whichever way it goes, everybody is told one story.

use std::collections::BTreeSet;
use std::sync::Arc;

use mlms_protocol::command::{Join, Moderate, Moderation};
use mlms_protocol::lobby::Settings;
use mlms_protocol::{
    Answer, Change, Command, ErrorCode, Event, LobbyCommand, LobbyEvent, LobbyId, Refusal, Seq, UserId,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::fleet::{Fleet, Plan, lobby, user};
use crate::line::{Line, chat};
use crate::stories::no_rates;

const ROUNDS: u64 = 1_000;

/// A lobby of a host, a witness, and two who race: sometimes at the owner, sometimes over a link.
struct Round {
    fleet: Arc<Fleet>,
    lobby: LobbyId,
    random: StdRng,
    ann: Line,
    bob: Line,
    cat: Line,
}

impl Round {
    async fn new(seed: u64) -> Round {
        let fleet = Fleet::start(Plan { limits: no_rates(), ..Plan::default() }).await;
        let mut random = StdRng::seed_from_u64(seed);
        let mut node = || random.random_range(0..2_usize);
        let (ann, bob, cat) = (
            fleet.connect(node(), "ann").await,
            fleet.connect(node(), "bob").await,
            fleet.connect(node(), "cat").await,
        );
        Round { lobby: lobby("none"), fleet, random, ann, bob, cat }
    }

    /// A new lobby with ann as its host.
    async fn fresh(&mut self, capacity: Option<u32>) {
        self.lobby = lobby(&format!("race-{}", self.fleet.unique()));
        let settings = Settings { capacity, ..Settings::default() };
        let create = Join { create: Some(settings), ..Join::default() };
        self.ann.join_with(&self.lobby, create).await.unwrap();
    }

    fn moderate(&self, action: Moderation) -> Command {
        let moderate = Moderate { action, user: user("bob"), for_s: None, reason: None };
        Command::Lobby(self.lobby.clone(), LobbyCommand::Moderate(moderate))
    }

    /// Both commands at once, in either order, sometimes one a little later.
    async fn race(&mut self, anns: Command, bobs: Command) -> [Result<Answer, Refusal>; 2] {
        let bob_first = self.random.random_bool(0.5);
        let later = self.random.random_range(0..6_u32);
        if bob_first {
            let id = self.bob.send(bobs, None).await.unwrap();
            pass(later).await;
            let anns = self.ann.ask(anns, None).await;
            return [anns, self.bob.reply(id).await];
        }
        let id = self.ann.send(anns, None).await.unwrap();
        pass(later).await;
        let bobs = self.bob.ask(bobs, None).await;
        [self.ann.reply(id).await, bobs]
    }

    /// The events of the lobby, and that they lead to the members and the host that a newcomer is shown.
    async fn judged(&mut self) -> Vec<LobbyEvent> {
        let joined = self.cat.join(&self.lobby).await;
        let events = self.cat.history(&self.lobby, 0).await;
        assert_eq!(events.len() as u64, joined.seq.0, "no seq is missing");
        let (mut members, mut host) = (BTreeSet::new(), None);
        for event in &events {
            match &event.change {
                Change::Joined { user, role, .. } => {
                    assert!(members.insert(user.clone()), "{user} joined twice: {events:?}");
                    if role.as_str() == "host" {
                        host = Some(user.clone());
                    }
                }
                Change::Left { user, .. } | Change::Kicked { user, .. } => {
                    assert!(members.remove(user), "{user} left without being there: {events:?}");
                    host = host.filter(|host| host != user);
                }
                Change::Banned { user, .. } => {
                    members.remove(user);
                    host = host.filter(|host| host != user);
                }
                Change::HostChanged { user, .. } => host.clone_from(user),
                _ => {}
            }
            assert!(
                host.as_ref().is_none_or(|host| members.contains(host)),
                "a host who is gone: {events:?}"
            );
        }
        let state = joined.state.unwrap();
        let shown: BTreeSet<UserId> = state.members.iter().map(|member| member.user.clone()).collect();
        assert_eq!((shown, state.host), (members, host), "{events:?}");
        events
    }

    /// Everybody leaves, so that the next round finds nothing.
    async fn over(&mut self) {
        for line in [&mut self.ann, &mut self.bob, &mut self.cat] {
            // Whoever was put out has left already.
            let _ = line.ask(Command::Lobby(self.lobby.clone(), LobbyCommand::Leave), None).await;
        }
    }
}

/// Lets others go on for a few turns.
async fn pass(turns: u32) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

fn seq_of(outcome: &Result<Answer, Refusal>) -> Option<Seq> {
    match outcome {
        Ok(Answer::Sent { seq, .. } | Answer::Changed { seq, .. }) => Some(*seq),
        Ok(other) => panic!("{other:?}"),
        Err(_) => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_before_the_ban_of_its_sender_or_nowhere() {
    let mut round = Round::new(1).await;
    let (mut said, mut silent) = (0, 0);
    for _ in 0..ROUNDS {
        round.fresh(None).await;
        let lobby = round.lobby.clone();
        round.bob.join(&lobby).await;
        let [banned, sent] = round.race(round.moderate(Moderation::Ban), chat(&lobby, "last words")).await;
        let ban = seq_of(&banned).expect("a host bans");
        match seq_of(&sent) {
            Some(seq) => {
                said += 1;
                assert!(seq < ban, "said at {seq}, banned at {ban}");
            }
            None => {
                silent += 1;
                let code = sent.unwrap_err().code;
                assert!([ErrorCode::NotMember, ErrorCode::Banned].contains(&code), "{code}");
            }
        }
        let after = round.ann.chat(&lobby, "he is gone").await;
        assert_eq!(round.bob.ask(chat(&lobby, "?"), None).await.unwrap_err().code, ErrorCode::NotMember);
        // What he was told ends with the ban.
        let last = loop {
            let event = round.bob.event().await;
            if let Event::Lobby(event) = event
                && event.lobby == lobby
                && matches!(event.change, Change::Banned { .. })
            {
                break event.seq;
            }
        };
        assert_eq!(last, ban);
        let events = round.judged().await;
        let of_bob = events.iter().filter(|event| event.speaker() == Some(&user("bob")));
        assert!(of_bob.clone().all(|event| event.seq < ban) && after > ban);
        round.over().await;
    }
    assert!(said > ROUNDS / 20 && silent > ROUNDS / 20, "no race: {said} said, {silent} silent");
}

#[tokio::test(start_paused = true)]
async fn the_last_place_goes_to_one() {
    let mut round = Round::new(2).await;
    let mut won = [0, 0];
    for _ in 0..ROUNDS {
        round.fresh(Some(2)).await;
        let lobby = round.lobby.clone();
        let join = || Command::Lobby(lobby.clone(), LobbyCommand::Join(Join::default()));
        let outcomes = if round.random.random_bool(0.5) {
            let id = round.cat.send(join(), None).await.unwrap();
            pass(round.random.random_range(0..6)).await;
            let bobs = round.bob.ask(join(), None).await;
            [bobs, round.cat.reply(id).await]
        } else {
            let id = round.bob.send(join(), None).await.unwrap();
            pass(round.random.random_range(0..6)).await;
            let cats = round.cat.ask(join(), None).await;
            [round.bob.reply(id).await, cats]
        };
        let place = outcomes.iter().position(Result::is_ok).expect("there is a place for one");
        won[place] += 1;
        let refusal = outcomes[1 - place].as_ref().unwrap_err();
        assert!(refusal.code == ErrorCode::LobbyFull && refusal.retry_ms.is_some(), "{refusal:?}");
        let looked = round
            .ann
            .ask(Command::Lobby(lobby.clone(), LobbyCommand::Roster { cursor: None, limit: None }), None);
        let Ok(Answer::Roster { members, .. }) = looked.await else { panic!("no roster") };
        assert_eq!(members.len(), 2);
        round.over().await;
    }
    assert!(won.iter().all(|won| *won > ROUNDS / 20), "no race: {won:?}");
}

#[tokio::test(start_paused = true)]
async fn a_kick_meets_a_join_and_all_agree_who_is_in() {
    let mut round = Round::new(3).await;
    let mut inside = 0;
    for _ in 0..ROUNDS {
        round.fresh(None).await;
        let lobby = round.lobby.clone();
        // Half the time he is in already, and joins once more.
        if round.random.random_bool(0.5) {
            round.bob.join(&lobby).await;
        }
        let join = Command::Lobby(lobby.clone(), LobbyCommand::Join(Join::default()));
        let [kicked, joined] = round.race(round.moderate(Moderation::Kick), join).await;
        assert!(joined.is_ok(), "a kick is no ban: {joined:?}");
        assert!(kicked.is_ok() || kicked.as_ref().is_err_and(|refusal| refusal.code == ErrorCode::NotFound));
        let events = round.judged().await;
        let about_bob = events.iter().rev().find_map(|event| match &event.change {
            Change::Joined { user: who, .. } if *who == user("bob") => Some(true),
            Change::Kicked { .. } => Some(false),
            _ => None,
        });
        let is_in = about_bob.unwrap();
        inside += u64::from(is_in);
        assert_eq!(round.bob.ask(chat(&lobby, "in?"), None).await.is_ok(), is_in, "{events:?}");
        round.over().await;
    }
    assert!(inside > ROUNDS / 20 && inside < ROUNDS - ROUNDS / 20, "no race: {inside} inside");
}

#[tokio::test(start_paused = true)]
async fn a_lobby_is_handed_to_a_member_or_not_at_all() {
    let mut round = Round::new(4).await;
    let mut handed = 0;
    for _ in 0..ROUNDS {
        round.fresh(None).await;
        let lobby = round.lobby.clone();
        round.bob.join(&lobby).await;
        let leave = Command::Lobby(lobby.clone(), LobbyCommand::Leave);
        let [transferred, left] = round.race(round.moderate(Moderation::Transfer), leave).await;
        assert_eq!(left, Ok(Answer::Done));
        match transferred {
            Ok(_) => handed += 1,
            Err(refusal) => assert_eq!(refusal.code, ErrorCode::NotFound),
        }
        round.judged().await;
        // Handed over and left behind, or never handed over: ann runs it.
        let state = round.ann.join(&lobby).await.state.unwrap();
        assert_eq!(state.host, Some(user("ann")));
        round.over().await;
    }
    assert!(handed > ROUNDS / 20 && handed < ROUNDS - ROUNDS / 20, "no race: {handed} handed over");
}
