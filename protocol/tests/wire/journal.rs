//! The serde form: what the journal, snapshots and the relay keep. Named fields, so that a release can add some.

use mlms_protocol::{Answer, Encoding, LobbyCommand, LobbyEvent, Refusal};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{generators, samples};

fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
    let kept = rmp_serde::to_vec_named(value).unwrap();
    assert_eq!(&rmp_serde::from_slice::<T>(&kept).unwrap(), value);
}

#[test]
fn every_sample_is_kept() {
    samples::lobby_events().iter().for_each(|(_, event)| check(event));
    samples::replies().iter().for_each(|(_, _, outcome)| check::<Result<Answer, Refusal>>(outcome));
}

proptest! {
    #[test]
    fn events_with_bodies_of_either_encoding_are_kept(
        json in generators::lobby_event(Encoding::Json),
        packed in generators::lobby_event(Encoding::Msgpack),
    ) {
        check::<LobbyEvent>(&json);
        check::<LobbyEvent>(&packed);
    }

    #[test]
    fn commands_with_bodies_of_either_encoding_are_kept(
        json in generators::lobby_command(Encoding::Json),
        packed in generators::lobby_command(Encoding::Msgpack),
    ) {
        check::<LobbyCommand>(&json);
        check::<LobbyCommand>(&packed);
    }

    #[test]
    fn outcomes_are_kept((_, outcome) in generators::outcome(Encoding::Msgpack)) {
        check::<Result<Answer, Refusal>>(&outcome);
    }
}
