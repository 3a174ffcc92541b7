//! What is staged leaves: encoded once an encoding, joined, one write a member. To a very large audience in slices, so that
//! no other lobby waits behind it. Whoever's run differs from everybody's is written to apart.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use mlms_protocol::{Class, Encoding, LobbyId, Millis};

use super::staging::{Payload, Staged, shared, slot};
use super::{Audience, Seat};
use crate::metrics::Metrics;
use crate::outbox::Outbox;

/// Members to whom a worker writes in one go. What is for more of them leaves in slices, and what other lobbies have to
/// say goes between.
pub(super) const SLICE: usize = 512;

/// Up to here one go is short enough for everybody: some milliseconds.
pub(super) const ONE_GO: usize = 1_024;

/// Outboxes that are read together before the first of them is written to. Between two writes the kernel's work drives
/// them out of the caches; read together, the processor waits for all of them at once.
const READ_TOGETHER: usize = 8;

/// What is for everyone, and who has not got it yet. Seats neither come nor go before it is out.
pub(super) struct Spread {
    staged: Vec<Staged>,
    joined: [Bytes; 2],
    seats: std::vec::IntoIter<u32>,
}

impl Audience {
    /// Writes what is staged: one write a member. To a very large audience it leaves in slices: until [`Audience::spread`]
    /// says that all is out, there is more to write.
    pub(crate) fn flush(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        self.finish_spread();
        let mut staged = std::mem::take(&mut self.staged);
        for encoding in Encoding::ALL {
            if self.counts[slot(encoding)] == 0 {
                continue;
            }
            for item in &mut staged {
                item.frame(encoding);
            }
        }
        let joined = Encoding::ALL.map(|encoding| match self.counts[slot(encoding)] {
            0 => Bytes::new(),
            _ => join(staged.iter().filter(shared).map(|item| item.ready(encoding))),
        });
        let mut later = Vec::new();
        let plain = if joined.iter().all(Bytes::is_empty) {
            0
        } else if self.by_session.len() > ONE_GO {
            let seats = self.seats.iter().zip(0_u32..);
            let seats = seats.filter(|(seat, _)| seat.as_ref().is_some_and(|seat| !seat.special));
            later.extend(seats.map(|(_, index)| index));
            later.len() as u64
        } else {
            let seats = self.seats.iter().flatten().filter(|seat| !seat.special);
            deliver_plain(&self.lobby, &staged, &joined, seats)
        };
        for class in [Class::Durable, Class::Ordered, Class::Ephemeral] {
            let items = staged.iter().filter(shared).filter(|item| item.class == class).count() as u64;
            if items > 0 && plain > 0 {
                self.metrics.deliveries.of(class).inc_by(items * plain);
            }
        }
        for index in std::mem::take(&mut self.special) {
            let Some(seat) = &mut self.seats[index as usize] else { continue };
            if !seat.special {
                continue;
            }
            deliver_special(&self.lobby, &staged, index, seat, &self.metrics);
            seat.special = seat.pull.is_some();
            seat.from = 0;
            if seat.pull.as_ref().is_some_and(|pull| pull.ends_at.is_some()) {
                seat.until = 0;
            }
            if seat.special {
                self.special.push(index);
            }
        }
        if later.is_empty() {
            self.time_delivery(&staged);
            staged.clear();
            self.staged = staged;
        } else {
            self.spread = Some(Box::new(Spread { staged, joined, seats: later.into_iter() }));
            self.spread();
        }
        self.clear_leaving();
    }

    /// Writes to the next slice of a very large audience. `true`: all is out.
    pub(crate) fn spread(&mut self) -> bool {
        let Some(mut spread) = self.spread.take() else { return true };
        let Spread { staged, joined, seats } = &mut *spread;
        let slice = seats.by_ref().take(SLICE).filter_map(|index| self.seats[index as usize].as_ref());
        deliver_plain(&self.lobby, staged, joined, slice);
        let is_out = spread.seats.len() == 0;
        if is_out {
            self.time_delivery(&spread.staged);
        } else {
            self.spread = Some(spread);
        }
        is_out
    }

    fn time_delivery(&self, staged: &[Staged]) {
        if let Some(at) = staged.iter().find_map(Staged::at) {
            self.metrics.delivery_seconds.observe(since(at));
        }
    }

    /// Whether something is still on its way to a very large audience.
    pub(crate) fn is_spreading(&self) -> bool {
        self.spread.is_some()
    }

    /// Writes what is on its way to all who have not got it.
    pub(super) fn finish_spread(&mut self) {
        while !self.spread() {}
    }
}

/// Seconds from a time that an owner gave until now. The machines' clocks are taken to agree.
fn since(at: Millis) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(at.0)).as_secs_f64()
}

fn join<'a>(frames: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let mut rest = frames.clone();
    match (rest.next(), rest.next()) {
        (None, _) => Bytes::new(),
        (Some(only), None) => only.clone(),
        _ => {
            let mut joined = BytesMut::with_capacity(frames.clone().map(Bytes::len).sum());
            for frame in frames {
                joined.extend_from_slice(frame);
            }
            joined.freeze()
        }
    }
}

/// Writes what is for everyone to these, and tells how many they are.
fn deliver_plain<'a>(
    lobby: &LobbyId,
    staged: &[Staged],
    joined: &[Bytes; 2],
    mut seats: impl Iterator<Item = &'a Seat>,
) -> u64 {
    let mut delivered = 0;
    let mut together: [Option<(&Outbox, Encoding)>; READ_TOGETHER] = [None; READ_TOGETHER];
    loop {
        let mut read = 0;
        for (place, seat) in together.iter_mut().zip(seats.by_ref()) {
            *place = Some((&seat.outbox, seat.outbox.encoding()));
            read += 1;
        }
        for (outbox, encoding) in together[..read].iter().flatten() {
            outbox.push_joined(&joined[slot(*encoding)], || {
                staged.iter().filter(shared).map(|item| (item.ready(*encoding).clone(), item.shed(lobby)))
            });
        }
        delivered += read as u64;
        if read < READ_TOGETHER {
            return delivered;
        }
    }
}

/// Writes the run of a seat that differs from everybody's: it was seated or taken out meanwhile, is named or left out
/// by a message, or is still pulling.
fn deliver_special(lobby: &LobbyId, staged: &[Staged], index: u32, seat: &mut Seat, metrics: &Metrics) {
    let encoding = seat.session.outbox.encoding();
    let run = staged.iter().zip(0_u32..).filter(|(_, place)| (seat.from..seat.until).contains(place));
    let mine = run.map(|(item, _)| item).filter(|item| item.is_for(index));
    let Some(pull) = &mut seat.pull else {
        for class in [Class::Durable, Class::Ordered, Class::Ephemeral] {
            let counted = |item: &&Staged| item.class == class && !matches!(item.payload, Payload::Ready);
            let items = mine.clone().filter(counted).count() as u64;
            if items > 0 {
                metrics.deliveries.of(class).inc_by(items);
            }
        }
        let joined = join(mine.clone().map(|item| item.ready(encoding)));
        if !joined.is_empty() {
            let frames = || mine.map(|item| (item.ready(encoding).clone(), item.shed(lobby)));
            seat.session.outbox.push_joined(&joined, frames);
        }
        return;
    };
    // Sequenced events are read again by the pull; what has no seq waits for its place behind them.
    for item in mine {
        match &item.payload {
            Payload::Lobby(event) => pull.seen = pull.seen.max(event.seq),
            _ => {
                let frame = item.ready(encoding).clone();
                pull.held_bytes += frame.len();
                pull.held.push((pull.seen, frame, item.shed(lobby)));
            }
        }
    }
    if pull.held_bytes > seat.session.outbox.bytes_max() {
        seat.session.outbox.close_slow();
    }
}
