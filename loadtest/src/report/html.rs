//! `report.html`: one file with everything in it, for people; light or dark as their system is.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::date::date_time;
use super::plot::{Line, Plot, short};
use crate::outcome::{Outcome, Phase, Point};
use crate::scenario::Latency;
use crate::verdict::{Decision, Tested};

/// Points of a line; longer runs are thinned out.
const POINTS_MAX: usize = 600;

const STYLE: &str = include_str!("style.css");

pub(super) fn page(outcome: &Outcome) -> String {
    let name = &outcome.scenario.name;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "loadtest " (name) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (header(outcome))
                (checks(outcome))
                section { h2 { "Latency over time" } (latency_over_time(outcome)) }
                section { h2 { "Latency by percentile" } (percentiles(outcome)) }
                section { h2 { "Throughput" } (throughput(outcome)) }
                section { h2 { "Connections" } (connections(outcome)) }
                section { h2 { "Phases" } (phases(outcome)) }
                (recovery(outcome))
                (machine(outcome))
                section {
                    h2 { "Scenario" }
                    details { summary { "as it was run" } pre { (toml::to_string(&outcome.scenario).unwrap_or_default()) } }
                }
            }
        }
    };
    page.into_string()
}

fn header(outcome: &Outcome) -> Markup {
    let (class, word) = match outcome.verdict.decision {
        Decision::Passed => ("passed", "passed"),
        Decision::Failed => ("failed", "failed"),
        Decision::Void => ("void", "void"),
    };
    let total = &outcome.total;
    let delivery = total.times.get(&Latency::Delivery);
    let tiles = [
        ("clients", short(f64::from(outcome.scenario.clients.count))),
        ("deliveries, all checked", short((total.counts.deliveries + total.counts.caught_up) as f64)),
        ("deliveries a second", short(total.per_second(|counts| counts.deliveries + counts.caught_up))),
        ("delivery p50", delivery.map_or("–".to_owned(), |times| format!("{} ms", short(times.p50)))),
        ("delivery p99", delivery.map_or("–".to_owned(), |times| format!("{} ms", short(times.p99)))),
        ("rules broken", short(outcome.faults.total() as f64)),
        ("errors", short(total.counts.errors as f64)),
    ];
    html! {
        header {
            h1 { (outcome.scenario.name) " " span class={ "badge " (class) } { (word) } }
            p class="quiet" {
                (sentence(&outcome.scenario.description)) "Against " (outcome.targets.join(", ")) ", "
                (short(outcome.seconds)) " s" @if outcome.interrupted { ", interrupted" }
                ". Run " (outcome.run) " of " (date_time(outcome.started_at).replace('T', " ")) " UTC" ", seed " (outcome.scenario.seed) ", loadtest " (outcome.version) "."
            }
            div class="tiles" {
                @for (name, value) in tiles { div { strong { (value) } span { (name) } } }
            }
        }
    }
}

/// With its full stop, and a space to the next one.
fn sentence(text: &str) -> String {
    match text.trim() {
        "" => String::new(),
        whole if whole.ends_with(['.', '!', '?']) => format!("{whole} "),
        part => format!("{part}. "),
    }
}

fn checks(outcome: &Outcome) -> Markup {
    html! {
        section {
            h2 { "Verdict" }
            table {
                tbody {
                    @for tested in &outcome.verdict.tested {
                        tr {
                            td { (badge(tested)) }
                            td { (tested.name) }
                            td { (tested.text) }
                        }
                    }
                    @for void in &outcome.verdict.void {
                        tr { td { span class="badge void" { "void" } } td { "generator" } td { (void) } }
                    }
                }
            }
            @if !outcome.faults.first.is_empty() {
                details open { summary { "The first breaches" } ul { @for fault in &outcome.faults.first { li { (fault) } } } }
            }
        }
    }
}

fn badge(tested: &Tested) -> Markup {
    let (class, word) = match (tested.passed, tested.is_void) {
        (true, _) => ("passed", "ok"),
        (false, true) => ("void", "void"),
        (false, false) => ("failed", "missed"),
    };
    html! { span class={ "badge " (class) } { (word) } }
}

fn thinned(series: &[Point]) -> impl Iterator<Item = &Point> {
    series.iter().step_by(series.len().div_ceil(POINTS_MAX).max(1))
}

fn marks(outcome: &Outcome) -> Vec<(f64, String)> {
    let phases = outcome.phases.iter().map(|phase| (phase.from, phase.name.clone()));
    let faults =
        outcome.chaos.iter().map(|recovery| (recovery.done.at, format!("⚡ {}", recovery.done.action)));
    let mut marks: Vec<_> = phases.chain(faults).collect();
    marks.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    marks
}

fn over_time(
    outcome: &Outcome,
    y_name: &str,
    is_logarithmic: bool,
    is_filled: bool,
    lines: Vec<Line>,
) -> Markup {
    let plot = Plot {
        x_name: "seconds",
        y_name,
        x_max: outcome.series.last().map_or(1.0, |point| point.second as f64),
        lines,
        marks: marks(outcome),
        x_label: |value| short(*value),
        is_logarithmic,
        is_filled,
    };
    drawn(&plot)
}

fn drawn(plot: &Plot<'_>) -> Markup {
    let Some(svg) = plot.svg() else { return html! { p class="quiet" { "There was nothing to draw." } } };
    html! {
        p class="legend" {
            @for (index, line) in plot.lines.iter().enumerate() {
                span { i style={ "background:var(--line-" (index) ")" } {} (line.name) }
            }
        }
        div class="plot" { (PreEscaped(svg)) }
    }
}

fn latency_over_time(outcome: &Outcome) -> Markup {
    let line = |name: &str, of: fn(&Point) -> Option<f64>| {
        Line::new(name, thinned(&outcome.series).map(|point| (point.second as f64, of(point))))
    };
    let lines = vec![
        line("p50", |point| point.p50),
        line("p90", |point| point.p90),
        line("p99", |point| point.p99),
        line("max", |point| point.max),
        line("generator's own lag, max", |point| Some(point.lag_max).filter(|lag| *lag > 0.0)),
    ];
    over_time(outcome, "ms to a delivery", true, false, lines)
}

fn percentiles(outcome: &Outcome) -> Markup {
    let times = [Latency::Delivery, Latency::Ok, Latency::Join, Latency::Connect, Latency::Outage];
    let line = |latency: Latency| {
        let summary = outcome.total.times.get(&latency)?;
        let points = summary.curve.iter().filter(|(percentile, ms)| *percentile < 100.0 && *ms > 0.0);
        // 90, 99, 99.9 … are equally far apart.
        let points = points.map(|(percentile, ms)| (-(1.0 - percentile / 100.0).log10(), Some(*ms)));
        Some(Line::new(latency.name(), points))
    };
    drawn(&Plot {
        x_name: "percentile",
        y_name: "ms",
        x_max: 5.0,
        lines: times.into_iter().filter_map(line).collect(),
        marks: Vec::new(),
        x_label: |value| match *value {
            whole if (whole - whole.round()).abs() > 1e-6 => String::new(),
            whole => format!("{}", 100.0 - 10f64.powf(2.0 - whole.round())).chars().take(7).collect(),
        },
        is_logarithmic: true,
        is_filled: false,
    })
}

fn throughput(outcome: &Outcome) -> Markup {
    let line = |name: &str, of: fn(&Point) -> u64| {
        let points = thinned(&outcome.series);
        Line::new(name, points.map(|point| (point.second as f64, Some(of(point) as f64))))
    };
    let lines = vec![
        line("deliveries a second", |point| point.deliveries),
        line("sent a second", |point| point.sent),
        line("errors a second", |point| point.errors),
    ];
    over_time(outcome, "a second", false, true, lines)
}

fn connections(outcome: &Outcome) -> Markup {
    let points = thinned(&outcome.series).map(|point| (point.second as f64, Some(point.joined as f64)));
    over_time(outcome, "sessions", false, true, vec![Line::new("in a lobby", points)])
}

fn phases(outcome: &Outcome) -> Markup {
    html! {
        div class="wide" {
            table class="numbers" {
                thead {
                    tr {
                        th { "phase" } th { "time" } th { "count" } th { "p50" } th { "p90" } th { "p99" } th { "p99.9" } th { "max ms" }
                    }
                }
                @for phase in outcome.phases.iter().chain([&outcome.total]) { (phase_rows(phase)) }
            }
        }
    }
}

fn phase_rows(phase: &Phase) -> Markup {
    let counts = &phase.counts;
    let deliveries = counts.deliveries + counts.caught_up;
    let reasons: Vec<String> =
        phase.reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    html! {
        tbody {
            tr class="phase" {
                th { (phase.name) }
                td colspan="7" {
                    (short(phase.from)) "–" (short(phase.to)) " s: " (counts.joins) " joined, " (counts.sent) " sent, "
                    (deliveries) " delivered (" (short(phase.per_second(|counts| counts.deliveries + counts.caught_up))) "/s), " (counts.errors) " errors, "
                    (counts.retries) " retries, " (counts.connect_failures) " failed connects, "
                    (counts.lost_connections) " lost connections"
                    @if counts.moved_connections > 0 { ", " (counts.moved_connections) " asked to come again" }
                    @if counts.unsent > 0 { ", " (counts.unsent) " not sent while disconnected" }
                    @if counts.dropped > 0 { ", " (counts.dropped) " dropped" }
                    @if let Some(percent) = counts.ephemeral_percent() { ", " (format!("{percent:.1}")) " % of the ephemeral ones arrived" }
                    @if let Some(us) = phase.server_cpu_us_per_delivery { ", server " (short(us)) " µs a delivery" }
                    @if !reasons.is_empty() { br; span class="quiet" { (reasons.join(", ")) } }
                }
            }
            @for (latency, times) in &phase.times {
                tr {
                    td {} td { (latency.name()) } td { (times.count) }
                    @for value in [times.p50, times.p90, times.p99, times.p99_9, times.max] { td { (format!("{value:.2}")) } }
                }
            }
        }
    }
}

fn recovery(outcome: &Outcome) -> Markup {
    let ms = |value: Option<f64>| value.map_or("–".to_owned(), |ms| format!("{ms:.0}"));
    html! {
        @if !outcome.chaos.is_empty() {
            section {
                h2 { "Faults and recovery" }
                div class="wide" {
                    table class="numbers" {
                        thead { tr {
                            th { "at, s" } th { "what" } th { "connections lost" } th { "never back" } th { "all back after, ms" }
                            th { "away p50, ms" } th { "away max, ms" } th { "silent lobbies" } th { "longest silence, ms" }
                        } }
                        tbody {
                            @for recovery in &outcome.chaos {
                                tr {
                                    td { (short(recovery.done.at)) }
                                    td { (recovery.done.action) " " (recovery.done.whom) @if let Some(error) = &recovery.done.error { ": " (error) } }
                                    td { (recovery.connections_lost) } td { (recovery.not_back) }
                                    td { (ms(recovery.all_back_after_ms)) } td { (ms(recovery.away_p50_ms)) } td { (ms(recovery.away_max_ms)) }
                                    td { (recovery.silent_lobbies) } td { (ms(recovery.silence_max_ms)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn machine(outcome: &Outcome) -> Markup {
    let generator = &outcome.generator;
    let us = |value: Option<f64>| value.map_or("–".to_owned(), |us| format!("{us:.2} µs"));
    html! {
        section {
            h2 { "Machines" }
            table {
                tbody {
                    @if let Some(server) = &outcome.server {
                        tr { th { "server" } td {
                            (format!("{:.1}", server.cpu_seconds)) " s of processor time, " (us(server.cpu_us_per_delivery)) " a delivery; "
                            (format!("{:.0}", server.rss_max_bytes / 1_048_576.0)) " MiB at most"
                            @if let Some(bytes) = server.rss_bytes_per_connection { ", " (format!("{bytes:.0}")) " bytes a connection" }
                        } }
                    }
                    tr { th { "generator" } td {
                        (generator.parts) " part" @if generator.parts != 1 { "s" }
                        @if !generator.workers.is_empty() { " on " (generator.workers.join(", ")) } @if generator.parts > 1 { " (all members of a lobby in one, so that every time is of one clock)" } ", "
                        (format!("{:.1}", generator.cpu_seconds)) " s of processor time, " (us(generator.cpu_us_per_delivery))
                        " a delivery; late by " (format!("{:.2}", generator.lag_p99_ms)) " ms at the 99th percentile, "
                        (format!("{:.1}", generator.lag_max_ms)) " ms at most; " (short(generator.checked_bytes as f64)) " bytes of bodies compared"
                    } }
                    tr { th { "owners" } td {
                        (outcome.owner_changes) " changes; " (outcome.ordered_lost_with_owner) " ordered deliveries went with an owner"
                    } }
                    @if outcome.scenario.game.is_some() {
                        tr { th { "games" } td {
                            (outcome.games_finished) " finished, " (outcome.achievements) " achievements, " (outcome.achievements_missing) " missing"
                        } }
                    }
                }
            }
        }
    }
}
