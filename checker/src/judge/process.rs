//! What the judge knows of one process: its connection, its open calls, its way through each lobby.

use std::collections::{HashMap, HashSet};

use super::lobby::Known;
use crate::chain::Chain;
use crate::record::Position;

/// A moment of the history and the line that tells of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct At {
    pub(super) t: u64,
    pub(super) line: u64,
}

/// Operations that the rules tell apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op {
    Send,
    Enter,
    Leave,
    Kick,
    Ban,
    Other,
}

impl Op {
    pub(super) fn of(name: &str) -> Op {
        match name {
            "send" => Op::Send,
            "join" | "resume" => Op::Enter,
            "leave" => Op::Leave,
            "kick" => Op::Kick,
            "ban" => Op::Ban,
            _ => Op::Other,
        }
    }
}

/// A command whose outcome is not recorded yet.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) op: Op,
    pub(super) lobby: usize,
    pub(super) nonce: Option<u32>,
    /// The number of the send in its lobby.
    pub(super) send: Option<u32>,
    pub(super) target: Option<u32>,
    pub(super) since: Option<Position>,
    pub(super) invoked: At,
    /// The highest seq known to anybody before the call.
    pub(super) floor: Known,
}

#[derive(Default)]
pub(super) struct Process {
    pub(super) name: u32,
    pub(super) user: u32,
    pub(super) connected: bool,
    /// Unique over the whole history.
    pub(super) connection: u32,
    pub(super) calls: HashMap<u64, Call>,
    pub(super) members: HashMap<usize, Member>,
    /// The last time at which this process was told `degraded`; `None`: never.
    pub(super) degraded_until: Option<u64>,
    /// Its place among the excuses while it is degraded.
    pub(super) excuse: Option<usize>,
}

/// A stay in a lobby: from one ok of join or resume to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stay {
    pub(super) seq: u64,
    /// The highest event of this stay.
    pub(super) last: Option<(u64, At)>,
}

/// A leave that got its ok.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    pub(super) asked: At,
    pub(super) ok: At,
}

#[derive(Default)]
pub(super) struct Member {
    pub(super) chain: Chain,
    pub(super) stays: Vec<Stay>,
    /// Since when everything that comes is live; `u64::MAX` while it is not.
    pub(super) live_since: u64,
    pub(super) last_line: u64,
    /// When the join or resume of the present stay was sent.
    pub(super) asked: At,
    /// When a leave was sent that no later join has undone.
    pub(super) leave: Option<At>,
    /// The last leave with an ok that no later join has undone.
    pub(super) left: Option<Left>,
    pub(super) heard: HashMap<u32, Heard>,
    pub(super) ephemeral: HashSet<u32>,
    /// When the recorder said that all had arrived, and `live_since` at that time.
    pub(super) settled: Option<(At, u64)>,
}

/// What a member has heard from one connection of a sender.
#[derive(Default)]
pub(super) struct Heard {
    /// The ordinal after the highest ordered message heard.
    pub(super) next: u32,
    pub(super) skipped: Vec<Skip>,
    /// One more than the place, among all sends of the connection, of the latest ordered and durable message
    /// heard live on the receiver's connection below.
    pub(super) ordered_place: u32,
    pub(super) durable_place: u32,
    pub(super) on_connection: u32,
}

/// An ordered message that a later one of its sender overtook, or that is lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Skip {
    pub(super) send: u32,
    pub(super) seen: At,
    /// It was sent when the receiver was certainly there.
    pub(super) is_due: bool,
}
