//! The rules, without a runtime. A script says who does what; the helper says what came of it. A file a subject.

mod cost;
mod doors;
mod flow;
mod forgetting;
mod lasting;
mod members;
mod positions;
mod powers;
mod table;
mod words;

use std::sync::Arc;
use std::time::Duration;

use mlms_protocol::command::{
    History, Invite, Join, Lock, Moderate, Moderation, Position, Recipients, Send, Update,
};
use mlms_protocol::lobby::{Reporters, Settings};
use mlms_protocol::{
    Answer, Body, Change, Class, Epoch, ErrorCode, Kind, Limits, LobbyCommand, LobbyEvent, LobbyId,
    MemberRole, Millis, Nonce, Refusal, Role, Seq, SessionId, UserId,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::table::{Table, check, check_at, object, said, user};
use super::*;
