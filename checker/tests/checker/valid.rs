//! What keeps the promises passes.

use mlms_checker::{Options, Verdict, check_records, check_text};

use crate::service::{Plan, play};

#[test]
fn valid_histories_pass_and_reach_everything() {
    let names = "send ack refused unknown delivery unsequenced owner_change reconnect resume resume_gap snapshot \
        retried_nonce dup kick ban after_removal lobby_full history_read fault:node_killed";
    let mut reached = vec![0; names.split_whitespace().count()];
    for seed in 0..300 {
        let records = play(&Plan::new(seed));
        let report = check_records(&records, &Options::default());
        assert_eq!(report.verdict(), Verdict::Passed, "seed {seed}: {report}");
        for (reached, name) in reached.iter_mut().zip(names.split_whitespace()) {
            let options = Options { require: vec![name.parse().unwrap()], ..Options::default() };
            *reached +=
                u64::from(seed < 30 && check_records(&records, &options).verdict() == Verdict::Passed);
        }
    }
    assert!(reached.iter().all(|times| *times > 0), "{names}: {reached:?}");
}

#[test]
fn text_and_records_get_the_same_report_in_any_order_of_lines() {
    let records = play(&Plan { steps: 400, ..Plan::new(7) });
    let lines: Vec<String> = records.iter().map(|record| record.to_line()).collect();
    let report = check_text(&lines.join("\n"), &Options::default()).unwrap();
    assert_eq!(report, check_records(&records, &Options::default()));
    let (early, late) = lines.split_at(lines.len() / 2);
    let shuffled = format!("{}\n{}\n", late.join("\n"), early.join("\n"));
    // Where two lines of one time are torn apart, their order in the file is all there is.
    let torn = records[lines.len() / 2 - 1].t == records[lines.len() / 2].t;
    let report = check_text(&shuffled, &Options::default()).unwrap();
    assert!(torn || report.verdict() == Verdict::Passed, "{report}");
}

#[test]
fn large_lobbies_pass() {
    let plan = Plan { users: 60, lobbies: 1, steps: 30_000, capacity: 50, ..Plan::new(3) };
    let report = check_records(&play(&plan), &Options::default());
    assert_eq!(report.verdict(), Verdict::Passed, "{report}");
}

/// Prints how fast a million deliveries are checked: `cargo test --release -p mlms-checker -- --ignored --nocapture million`.
#[test]
#[ignore = "a measurement"]
fn million() {
    let plan = Plan {
        users: 200,
        lobbies: 4,
        steps: 130_000,
        capacity: 200,
        owner_changes: false,
        removals: false,
        disconnects: false,
        reads: false,
        ..Plan::new(1)
    };
    let text: Vec<String> = play(&plan).iter().map(|record| record.to_line()).collect();
    let text = text.join("\n");
    let begin = std::time::Instant::now();
    let report = check_text(&text, &Options::default()).unwrap();
    let took = begin.elapsed();
    assert_eq!(report.verdict(), Verdict::Passed, "{report}");
    println!("{} deliveries, {} MB, {took:?}", report.counts.deliveries, text.len() / 1_000_000);
}
