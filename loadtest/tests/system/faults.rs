//! Faults on request, slow readers and storms, against a real service.

use std::io::Read as _;
use std::process::Command;
use std::thread;
use std::time::Instant;

use mlms_test_servers::Folder;

use crate::bench::{Run, run};
use crate::service::Service;

const TALK: &str = r#"
name = "talk"
clients.count = 20
lobbies.sizes = [{ members = 5 }]

[[senders]]
rate = 4
bytes = 80

[[phases]]
name = "talk"
seconds = 4

[generator]
lag_p99_ms = 10000
settle_seconds = 30
"#;

fn file(folder: &Folder, text: &str) -> String {
    let file = folder.path().join("scenario.toml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_killed_service_comes_back_with_everything_and_the_report_says_how_long_it_took() {
    let (mut service, folder) = (Service::start(), Folder::new("loadtest"));
    let kill = format!("1.5:kill:{}", service.pid());
    let run = Run::start(&file(&folder, TALK), &service.url(), &["--chaos", &kill]);
    // The fault is the load test's; the return is this test's.
    while !service.has_ended() {
        thread::park_timeout(std::time::Duration::from_millis(20));
    }
    service.restart();
    let ran = run.finish();
    ran.expect(0);
    let recovery = &ran.result["chaos"][0];
    assert_eq!(
        (&recovery["connections_lost"], &recovery["not_back"]),
        (&20.into(), &0.into()),
        "{}",
        ran.text
    );
    assert!(recovery["all_back_after_ms"].as_f64() > Some(0.0), "{recovery}");
    assert!(ran.html.contains("kill"), "the report tells of it");
}

#[test]
fn a_service_that_stands_still_for_a_second_is_a_second_slow() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    let (stop, cont) = (format!("4:stop:{}", service.pid()), format!("5.4:cont:{}", service.pid()));
    let missed = ["delivery.p95_ms < 500", "ok.p95_ms < 500"];
    let faults = ["--chaos", &stop, "--chaos", &cont, "--threshold", missed[0], "--threshold", missed[1]];
    let ran = run(&file(&folder, TALK), &service.url(), &[&["--seconds", "8"], &faults[..]].concat());
    ran.expect(2);
    assert!(ran.broken().is_empty(), "{}", ran.text);
    // A sixth of all messages were due meanwhile. Each counts from its own time; with one a client it were one in thirty.
    for missed in missed {
        assert!(ran.text.contains(&format!("MISSED {missed}")), "{}", ran.text);
    }
    assert!(ran.result["chaos"][0]["silence_max_ms"].as_f64() > Some(1_000.0), "{}", ran.text);
    let counts = &ran.result["total"]["counts"];
    assert_eq!((&counts["unsent"], &counts["lost_connections"]), (&0.into(), &0.into()), "{}", ran.text);
}

#[test]
fn a_drain_is_followed_and_a_fault_that_fails_is_told() {
    let (mut service, folder) = (Service::start(), Folder::new("loadtest"));
    let drain = format!("1:drain:{}", service.pid());
    let more = ["--chaos", &drain, "--chaos", "0.5:command:exit 7"];
    let run = Run::start(&file(&folder, TALK), &service.url(), &more);
    while !service.has_ended() {
        thread::park_timeout(std::time::Duration::from_millis(20));
    }
    service.restart();
    let ran = run.finish();
    ran.expect(2);
    assert!(ran.broken().is_empty(), "{}", ran.text);
    assert_eq!(ran.result["total"]["reasons"]["close 4000"], 20, "{}", ran.text);
    let counts = &ran.result["total"]["counts"];
    let (moved, lost) = (&counts["moved_connections"], &counts["lost_connections"]);
    assert_eq!(
        (moved, lost),
        (&20.into(), &0.into()),
        "who is asked to come again has lost nothing: {}",
        ran.text
    );
    assert!(ran.text.contains("MISSED chaos: command exit 7"), "{}", ran.text);
}

#[test]
fn a_storm_and_slow_readers_are_survived_and_checked() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    let storm = TALK
        .replace("[generator]", "[[phases]]\nname = \"storm\"\nkind = \"storm\"\nseconds = 2\n\n[generator]");
    let more = ["--set", "slow_readers.share=0.3", "--set", "slow_readers.bytes_per_s=3000"];
    let ran = run(&file(&folder, &storm), &service.url(), &more);
    ran.expect(0);
    let storm = &ran.result["phases"][1]["times"]["outage"];
    assert_eq!(storm["count"], 20, "{}", ran.text);
}

#[test]
fn a_service_that_never_comes_back_does_not_pass() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    let kill = format!("1:kill:{}", service.pid());
    let more = ["--chaos", &kill, "--seconds", "1.5", "--set", "generator.settle_seconds=1"];
    let ran = run(&file(&folder, TALK), &service.url(), &more);
    ran.expect(2);
    assert!(ran.text.contains("20 clients are not"), "{}", ran.text);
    assert_eq!(ran.result["chaos"][0]["not_back"], 20, "{}", ran.text);
}

#[test]
fn a_command_that_goes_on_ends_with_an_interrupted_run_and_is_not_judged() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let endless = format!("0.5:command:sleep 600 > {}", pipe.display());
    let more = ["--chaos", &endless, "--chaos", "0.2:command:true", "--seconds", "600"];
    let run = Run::start(&file(&folder, TALK), &service.url(), &more);
    // It opens when the command is there, and is read to its end when it is not.
    let mut pipe = std::fs::File::open(pipe).unwrap();
    run.signal("INT");
    let begun = Instant::now();
    assert_eq!(pipe.read_to_end(&mut Vec::new()).unwrap(), 0);
    assert!(begun.elapsed().as_secs() < 30, "it ended by itself");
    let ran = run.finish();
    ran.expect(0);
    assert!(ran.text.contains("ok     chaos: command sleep 600 > "), "{}", ran.text);
    assert!(ran.text.contains("not judged, as the run was interrupted and it with it"), "{}", ran.text);
}
