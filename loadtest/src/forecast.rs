//! What a scenario asks for, told without a service: `loadtest run --dry-run`. Pure; the plan is the run's own.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::plan::Plan;
use crate::scenario::{Scenario, To};

/// What is due in a second, when all who are to be there are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rates {
    messages: f64,
    deliveries: f64,
}

/// Lobbies, and for each phase who is there and what is due.
pub(crate) fn text(scenario: &Scenario) -> String {
    let plan = Plan::new(scenario, 1);
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, scenario, &plan);
    out
}

fn write(out: &mut String, scenario: &Scenario, plan: &Plan) -> std::fmt::Result {
    let mut sizes = BTreeMap::<usize, u32>::new();
    plan.lobbies.iter().for_each(|lobby| *sizes.entry(lobby.members.len()).or_default() += 1);
    let sizes: Vec<String> = sizes.iter().map(|(size, count)| format!("{count} of {size}")).collect();
    writeln!(out, "{}: {} clients, seed {}", scenario.name, scenario.clients.count, scenario.seed)?;
    writeln!(out, "lobbies: {} ({} in all)\n", sizes.join(", "), plan.lobbies.len())?;
    let width = scenario.phases.iter().map(|phase| phase.name.chars().count()).max().unwrap_or(0).max(5);
    writeln!(
        out,
        "{:<width$}  {:>8}  {:>8}  {:>12}  {:>14}",
        "phase", "seconds", "clients", "messages/s", "deliveries/s"
    )?;
    let rates = rates(scenario, plan);
    let mut share = 1.0;
    for phase in &scenario.phases {
        share = phase.clients.unwrap_or(share);
        let clients = (share * f64::from(scenario.clients.count)).round();
        // Of the others only those who are there get it.
        let (messages, deliveries) = (rates.messages * phase.load * share, rates.deliveries * phase.load);
        let deliveries = deliveries * share * share;
        let (name, seconds) = (&phase.name, phase.seconds);
        writeln!(out, "{name:<width$}  {seconds:>8}  {clients:>8}  {messages:>12.1}  {deliveries:>14.1}")?;
    }
    if scenario.senders.iter().any(|sender| sender.under_way > 0) {
        writeln!(
            out,
            "\nSenders with under_way send as fast as the service answers: they are not in these numbers."
        )?;
    }
    if let Some(game) = &scenario.game {
        let players = f64::from(scenario.clients.count) * game.actions_per_s;
        writeln!(
            out,
            "\nGames: {} rounds of {} s in each lobby; while all play {players:.0} actions/s on top.",
            game.rounds, game.seconds
        )?;
    }
    Ok(())
}

fn rates(scenario: &Scenario, plan: &Plan) -> Rates {
    let mut rates = Rates::default();
    for sender in scenario.senders.iter().filter(|sender| sender.under_way == 0) {
        for lobby in &plan.lobbies {
            let members = lobby.members.len();
            let senders = sender.per_lobby.map_or(members, |count| members.min(count as usize));
            let messages = senders as f64 * sender.rate;
            let receivers = members - usize::from(sender.to == To::Others);
            rates.messages += messages;
            rates.deliveries += messages * receivers as f64;
        }
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_follows_from_lobbies_senders_and_load() {
        let text = "name = 'x'\nclients.count = 20\nlobbies.sizes = [{ members = 5 }]\n\
            [[senders]]\nrate = 2\nper_lobby = 1\n[[senders]]\nrate = 10\nkind = 'game'\nto = 'others'\n\
            [[phases]]\nname = 'hold'\nseconds = 60\n[[phases]]\nname = 'half'\nseconds = 5\nclients = 0.5\nload = 3\n";
        let scenario = Scenario::parse(text, &[]).unwrap();
        let wanted = Rates { messages: 4.0 * 2.0 + 20.0 * 10.0, deliveries: 4.0 * 2.0 * 5.0 + 200.0 * 4.0 };
        assert_eq!(rates(&scenario, &Plan::new(&scenario, 1)), wanted);
        let told = super::text(&scenario);
        let words: Vec<Vec<&str>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(told.contains("lobbies: 4 of 5 (4 in all)\n"), "{told}");
        assert!(words.contains(&vec!["hold", "60", "20", "208.0", "840.0"]), "{told}");
        assert!(words.contains(&vec!["half", "5", "10", "312.0", "630.0"]), "{told}");
    }
}
