//! The incremental rules: the same faults, seen as they happen.

use mlms_checker::online::{LobbyRules, MemberRules, fingerprint};
use mlms_checker::{Fault, Position, Rule};

fn rule(result: Result<(), Fault>) -> Option<Rule> {
    result.err().map(|fault| fault.rule)
}

fn at(seq: u64) -> Position {
    Position { epoch: 1, seq }
}

#[test]
fn a_lobby_that_keeps_its_promises_passes() {
    let mut lobby = LobbyRules::new(100);
    let mut members: Vec<MemberRules> = (0..3).map(|_| MemberRules::default()).collect();
    members.iter_mut().for_each(|member| member.entered(at(0)).unwrap());
    for seq in 1..=1000 {
        let event = fingerprint(&[b"ann", &seq_bytes(seq)]);
        let epoch = 1 + seq / 400;
        lobby.sent(event).unwrap();
        for member in &mut members {
            lobby.observed(epoch, seq, event, true).unwrap();
            member.delivered(epoch, seq, seq).unwrap();
            member.unsequenced(1, seq).unwrap();
        }
        lobby.acked(event, seq).unwrap();
    }
    assert_eq!((lobby.head(), lobby.owner_changes(), lobby.retried()), (1000, 2, 0));
    assert_eq!(lobby.finish(), []);
    members.iter_mut().for_each(|member| assert_eq!(member.finish(Some(1000)), []));
}

fn seq_bytes(seq: u64) -> [u8; 8] {
    seq.to_le_bytes()
}

#[test]
fn a_lobby_reports_what_breaks_its_rules() {
    let mut lobby = LobbyRules::new(100);
    for event in 1..=6 {
        lobby.sent(event).unwrap();
    }
    lobby.observed(2, 1, 1, true).unwrap();
    assert_eq!(rule(lobby.observed(2, 1, 2, true)), Some(Rule::OneEventPerSeq));
    assert_eq!(rule(lobby.observed(1, 2, 2, true)), Some(Rule::EpochBack));
    assert_eq!(rule(lobby.observed(2, 3, 1, true)), Some(Rule::OneSeqPerEvent));
    assert_eq!(rule(lobby.observed(2, 4, 99, true)), Some(Rule::Invented));
    lobby.sent(2).unwrap();
    assert_eq!(rule(lobby.acked(1, 9)), Some(Rule::NonceOnce));
    lobby.sent(7).unwrap();
    assert_eq!(rule(lobby.acked(7, 5)), Some(Rule::RealTime));
    lobby.refused(3).unwrap();
    assert_eq!(rule(lobby.observed(2, 10, 3, true)), Some(Rule::RefusedHappened));
    lobby.acked(4, 11).unwrap();
    let unseen: Vec<Rule> = lobby.finish().into_iter().map(|fault| fault.rule).collect();
    assert_eq!(unseen, [Rule::AckedLost, Rule::AckedLost]);
    assert_eq!(lobby.retried(), 1);
}

#[test]
fn the_window_bounds_what_a_lobby_remembers() {
    let mut lobby = LobbyRules::new(10);
    lobby.sent(1).unwrap();
    lobby.acked(1, 1).unwrap();
    for event in 2..=10 {
        lobby.sent(event).unwrap();
    }
    assert_eq!(rule(lobby.sent(11)), Some(Rule::AckedLost), "what leaves unseen is told");
    lobby.observed(1, 1_000_000, 500, true).unwrap();
    lobby.observed(1, u64::MAX - 1, 501, false).unwrap();
    lobby.observed(1, 3, 502, true).unwrap();
}

#[test]
fn a_member_reports_what_breaks_its_rules() {
    let mut member = MemberRules::default();
    assert_eq!(rule(member.delivered(1, 1, 0)), Some(Rule::BeforeJoin));
    assert_eq!(rule(member.unsequenced(1, 0)), Some(Rule::BeforeJoin));
    member.entered(at(10)).unwrap();
    member.delivered(1, 11, 0).unwrap();
    assert_eq!(rule(member.delivered(1, 11, 0)), Some(Rule::Duplicate));
    member.delivered(1, 14, 0).unwrap();
    assert_eq!(rule(member.delivered(1, 12, 0)), Some(Rule::Reordered));
    member.unsequenced(1, 5).unwrap();
    member.unsequenced(1, 8).unwrap();
    assert_eq!(rule(member.unsequenced(1, 8)), Some(Rule::Duplicate));
    assert_eq!(rule(member.unsequenced(1, 6)), Some(Rule::SenderOrder));
    assert_eq!(member.skipped(), 2);
    assert_eq!(rule(member.chain().caught_up(14).map(drop)), Some(Rule::CaughtUp));
    member.chain().detached();
    assert_eq!(rule(member.chain().resumed(at(13), 0, Some(at(14)))), Some(Rule::ResumePosition));
    member.chain().resumed(at(14), 1, None).unwrap_err();
    member.delivered(1, 15, 0).unwrap();
    assert_eq!(member.chain().caught_up(15), Ok(1));
    member.removed(15);
    assert_eq!(rule(member.delivered(1, 16, 0)), Some(Rule::AfterRemoval));
    let rules: Vec<Rule> = member.finish(Some(20)).into_iter().map(|fault| fault.rule).collect();
    assert_eq!(rules, [Rule::Gap, Rule::Incomplete]);
}

#[test]
fn a_resume_that_never_ends() {
    for (head, expected) in [(Some(16), &[Rule::CaughtUp][..]), (None, &[])] {
        let mut member = MemberRules::default();
        member.entered(at(14)).unwrap();
        member.chain().detached();
        member.chain().resumed(at(14), 2, None).unwrap();
        member.delivered(1, 15, 0).unwrap();
        member.delivered(1, 16, 0).unwrap();
        assert!(member.is_catching_up());
        let rules: Vec<Rule> = member.finish(head).into_iter().map(|fault| fault.rule).collect();
        assert_eq!(rules, expected, "who is not there at the end may have lost it with the connection");
    }
}
