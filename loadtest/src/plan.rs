//! From a scenario to who is in which lobby, who sends what, and who comes and goes when. Pure: the same scenario and
//! number of parts give the same plan, so that every worker of a run computes its own.

use crate::rng::{Rng, mix};
use crate::scenario::{PhaseKind, Scenario};

/// Microseconds from the start of a run.
pub(crate) type Micros = u64;

pub(crate) struct Plan {
    pub(crate) lobbies: Vec<LobbyPlan>,
    /// Sorted by time.
    pub(crate) steps: Vec<(Micros, u32, Step)>,
    pub(crate) phases: Vec<PhasePlan>,
}

pub(crate) struct LobbyPlan {
    pub(crate) number: u32,
    /// Clients' numbers; those who send come first.
    pub(crate) members: Vec<u32>,
    /// The part that runs it.
    pub(crate) part: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Come,
    Go,
    /// Lose the connection and come back.
    Drop,
}

pub(crate) struct PhasePlan {
    pub(crate) name: String,
    pub(crate) from: Micros,
    pub(crate) to: Micros,
    pub(crate) load: f64,
}

pub(crate) fn micros(seconds: f64) -> Micros {
    (seconds * 1e6) as Micros
}

impl Plan {
    pub(crate) fn new(scenario: &Scenario, parts: usize) -> Plan {
        let mut rng = Rng::new(scenario.seed);
        let lobbies = lobbies(scenario, parts, &mut rng);
        let mut order: Vec<u32> = (0..scenario.clients.count).collect();
        rng.shuffle(&mut order);
        Plan { lobbies, steps: steps(scenario, &order), phases: phases(scenario) }
    }

    /// When the last phase ends.
    pub(crate) fn end(&self) -> Micros {
        self.phases.last().map_or(0, |phase| phase.to)
    }
}

/// Which clients read slowly.
pub(crate) fn is_slow(scenario: &Scenario, client: u32) -> bool {
    dice(scenario, client, 0x510).unit() < scenario.slow_readers.share
}

/// Which clients speak MessagePack.
pub(crate) fn speaks_msgpack(scenario: &Scenario, client: u32) -> bool {
    dice(scenario, client, 0x3b6).unit() < scenario.clients.msgpack
}

/// Numbers for one purpose of one client, which nothing else draws from: they are the same whatever the server does,
/// and however many parts there are.
pub(crate) fn dice(scenario: &Scenario, client: u32, purpose: u16) -> Rng {
    Rng::new(scenario.seed ^ mix((u64::from(client) << 16 | u64::from(purpose)) + 1))
}

/// When a stream of `rate` a second, last heard at `from`, is heard again: once `work` messages' worth of time has
/// passed, which the phases' load makes shorter or longer. `None`: not before the end.
pub(crate) fn next_due(phases: &[PhasePlan], from: Micros, rate: f64, work: f64) -> Option<Micros> {
    let mut left = work;
    for phase in phases.iter().filter(|phase| phase.to > from) {
        let begin = phase.from.max(from);
        let rate = rate * phase.load;
        let room = (phase.to - begin) as f64 / 1e6 * rate;
        if left < room {
            return Some((begin + micros(left / rate)).max(from + 1));
        }
        left -= room;
    }
    None
}

fn lobbies(scenario: &Scenario, parts: usize, rng: &mut Rng) -> Vec<LobbyPlan> {
    let sizes = &scenario.lobbies.sizes;
    let weights: f64 = sizes.iter().map(|size| size.weight).sum();
    let mut load = vec![0u64; parts];
    let mut lobbies = Vec::new();
    let mut next = 0;
    while next < scenario.clients.count {
        let mut drawn = rng.unit() * weights;
        let size = sizes.iter().find(|size| {
            drawn -= size.weight;
            drawn < 0.0
        });
        let size = size.unwrap_or(&sizes[0]).members.min(scenario.clients.count - next);
        // Fan-out costs size times messages; the part with the least gets the next one.
        let (part, least) =
            load.iter_mut().enumerate().min_by_key(|(_, load)| **load).expect("there is a part");
        *least += u64::from(size) * u64::from(size.min(100));
        lobbies.push(LobbyPlan {
            number: lobbies.len() as u32,
            members: (next..next + size).collect(),
            part,
        });
        next += size;
    }
    lobbies
}

fn phases(scenario: &Scenario) -> Vec<PhasePlan> {
    let mut from = 0;
    let phase = |phase: &crate::scenario::Phase| {
        let to = from + micros(phase.seconds);
        let plan = PhasePlan { name: phase.name.clone(), from, to, load: phase.load };
        from = to;
        plan
    };
    scenario.phases.iter().map(phase).collect()
}

fn steps(scenario: &Scenario, order: &[u32]) -> Vec<(Micros, u32, Step)> {
    let mut steps = Vec::new();
    let mut here = 0usize;
    for (plan, phase) in phases(scenario).iter().zip(&scenario.phases) {
        let share =
            phase.clients.unwrap_or(if plan.from == 0 { 1.0 } else { here as f64 / order.len() as f64 });
        let target = (share * order.len() as f64).round() as usize;
        if phase.kind == PhaseKind::Storm {
            steps.extend(order[..here].iter().map(|client| (plan.from, *client, Step::Drop)));
        }
        let (change, step) = match target.checked_sub(here) {
            Some(_) => (&order[here..target], Step::Come),
            None => (&order[target..here], Step::Go),
        };
        let length = plan.to - plan.from;
        for (index, client) in change.iter().enumerate() {
            let at = match phase.kind {
                PhaseKind::Ramp => plan.from + length * index as u64 / change.len() as u64,
                _ => plan.from,
            };
            steps.push((at, *client, step));
        }
        here = target;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(more: &[&str]) -> Scenario {
        let text = "name = 'x'\nclients.count = 100\nlobbies.sizes = [{ members = 3 }, { members = 30, weight = 0.1 }]\n\
            [[phases]]\nname = 'ramp'\nkind = 'ramp'\nseconds = 10\nclients = 0.5\n[[phases]]\nname = 'storm'\nkind = 'storm'\nseconds = 1\n\
            [[phases]]\nname = 'full'\nseconds = 1\nclients = 1\n[[phases]]\nname = 'down'\nkind = 'ramp'\nseconds = 2\nclients = 0.1\n";
        Scenario::parse(text, &more.iter().map(|given| (*given).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn every_client_has_one_lobby_and_every_lobby_one_part() {
        let plan = Plan::new(&scenario(&[]), 3);
        let members: Vec<u32> = plan.lobbies.iter().flat_map(|lobby| lobby.members.clone()).collect();
        assert_eq!(members, (0..100).collect::<Vec<_>>());
        for part in 0..3 {
            assert!(plan.lobbies.iter().any(|lobby| lobby.part == part));
        }
    }

    #[test]
    fn clients_come_and_go_as_the_phases_say() {
        let plan = Plan::new(&scenario(&[]), 1);
        let count = |step, from, to| {
            plan.steps
                .iter()
                .filter(|(at, _, it)| *it == step && (micros(from)..micros(to)).contains(at))
                .count()
        };
        assert_eq!(count(Step::Come, 0.0, 10.0), 50);
        assert_eq!(count(Step::Come, 0.0, 5.0), 25);
        assert_eq!(count(Step::Drop, 10.0, 11.0), 50);
        assert_eq!(count(Step::Come, 11.0, 11.1), 50);
        assert_eq!(count(Step::Go, 12.0, 14.0), 90);
        assert!(plan.steps.is_sorted_by_key(|(at, ..)| *at));
        assert_eq!(plan.end(), micros(14.0));
    }

    #[test]
    fn the_load_of_each_phase_decides_when_a_stream_is_due() {
        let phase = |from, to, load| PhasePlan { name: String::new(), from, to, load };
        let phases =
            [phase(0, 1_000_000, 1.0), phase(1_000_000, 3_000_000, 0.0), phase(3_000_000, 4_000_000, 3.0)];
        let due = |from, work| next_due(&phases, from, 2.0, work);
        assert_eq!(due(0, 1.0), Some(500_000));
        // Half a message's worth is left of the first phase, and nothing of the second.
        assert_eq!(due(750_000, 2.0), Some(3_250_000));
        assert_eq!((due(3_500_000, 4.0), due(9_000_000, 0.1)), (None, None));
        assert_eq!(due(10, 0.0), Some(11), "time goes on");
    }

    #[test]
    fn the_seed_decides() {
        let order = |more: &[&str]| {
            Plan::new(&scenario(more), 1).steps.iter().map(|(_, client, _)| *client).collect::<Vec<_>>()
        };
        assert_eq!(order(&[]), order(&[]));
        assert_ne!(order(&[]), order(&["seed=2"]));
    }
}
