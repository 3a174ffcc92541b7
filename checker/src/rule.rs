//! The rules a history is held against, by name, and a single breach of one.
//!
//! Every other module speaks of breaches in these terms; nothing here judges.

use std::fmt;

use serde::Serialize;

macro_rules! rules {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// What the service promises its players, one variant a promise that can be broken.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Rule { $($(#[doc = $doc])+ $variant,)+ }

        impl Rule {
            /// Every rule, in the order in which reports list them.
            pub const ALL: &[Rule] = &[$(Rule::$variant,)+];

            /// The name that reports and tests use.
            pub fn name(self) -> &'static str {
                match self { $(Rule::$variant => $name,)+ }
            }
        }
    };
}

rules! {
    /// An event that got its ok is missing from a history read after it.
    AckedLost = "acked_lost",
    /// An event that a member received is missing from the final history.
    DeliveredLost = "delivered_lost",
    /// A history skips a seq, repeats one or is out of order.
    HistoryGap = "history_gap",
    /// Two different events were seen under one seq.
    OneEventPerSeq = "one_event_per_seq",
    /// One event was seen under two seqs.
    OneSeqPerEvent = "one_seq_per_event",
    /// The same user, lobby and nonce made two events, or two oks that name different seqs.
    NonceOnce = "nonce_once",
    /// A session's chain jumped over events without a snapshot.
    Gap = "gap",
    /// A session received the same event twice.
    Duplicate = "duplicate",
    /// A session received an event after a later one.
    Reordered = "reordered",
    /// A session that was still in the lobby never received its last events.
    Incomplete = "incomplete",
    /// `resumed` does not repeat the position that was asked for.
    ResumePosition = "resume_position",
    /// `caught_up` came at the wrong place, with the wrong seq, behind more or fewer events than `missed`, or never.
    CaughtUp = "caught_up",
    /// An event of a lobby reached a session before the ok of its join or resume.
    BeforeJoin = "before_join",
    /// A message that was sent after a session had left reached it.
    AfterLeave = "after_leave",
    /// A finished before B began, but A's seq is not below B's.
    RealTime = "real_time",
    /// A snapshot or a history does not know what was known before it was asked for.
    StaleRead = "stale_read",
    /// One sender's messages changed their order.
    SenderOrder = "sender_order",
    /// An ordered message never reached a connected member, and no fault excuses it.
    OrderedLost = "ordered_lost",
    /// An event that nobody caused.
    Invented = "invented",
    /// A message whose body or kind is not the one that was sent.
    Altered = "altered",
    /// A message for named users that reached somebody else.
    Misdelivered = "misdelivered",
    /// A command that was refused for good has happened all the same.
    RefusedHappened = "refused_happened",
    /// An epoch goes back along seq.
    EpochBack = "epoch_back",
    /// A kicked or banned user received what came after the ok, without joining again.
    AfterRemoval = "after_removal",
    /// More members than the lobby holds.
    Capacity = "capacity",
    /// A user joined who was a member already.
    Membership = "membership",
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One breach of a rule, as the incremental rules report it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Fault {
    pub rule: Rule,
    pub text: String,
}

impl Fault {
    pub(crate) fn new(rule: Rule, text: String) -> Fault {
        Fault { rule, text }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.text)
    }
}

impl std::error::Error for Fault {}
