//! Each exit code, against a real service.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};

use mlms_test_servers::Folder;

use crate::bench::{Run, SECRET, loadtest, run};
use crate::service::Service;

/// A few clients who chat, play and come and go, in three seconds.
const LIVELY: &str = r#"
name = "lively"
clients.count = 24
clients.enter = "user"
lobbies.sizes = [{ members = 4 }]
thresholds = ["connect_failures <= 0", "deliveries_per_s > 20", "talk: joins_per_s >= 0"]

[[senders]]
rate = 3
bytes = [60, 200]

[[senders]]
rate = 10
kind = "game"
arrivals = "even"
bytes = 70

[[senders]]
per_lobby = 1
rate = 5
kind = "position"
class = "ephemeral"
key = "at"

[[senders]]
per_lobby = 1
rate = 5
kind = "whisper"
to = "others"

[churn]
leave_per_minute = 6
disconnect_per_minute = 6
away_ms = [50, 300]

[[phases]]
name = "come"
kind = "ramp"
seconds = 1

[[phases]]
name = "talk"
seconds = 3

[generator]
lag_p99_ms = 10000
"#;

fn scenario(folder: &Folder, text: &str) -> String {
    let file = folder.path().join("scenario.toml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn what_holds_passes_with_0_and_tells_everything() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    let ran = run(&scenario(&folder, LIVELY), &service.url(), &["--pid", &service.pid(), "--threads", "2"]);
    ran.expect(0);
    let total = &ran.result["total"];
    for latency in ["connect", "join", "ok", "delivery", "lag"] {
        assert!(total["times"][latency]["count"].as_u64() > Some(10), "{latency}: {total}");
    }
    assert_eq!(ran.result["generator"]["parts"], 2);
    assert!(ran.result["server"]["rss_max_bytes"].as_f64() > Some(1e6));
    assert_eq!(ran.result["verdict"]["exit_code"], 0);
    assert!(ran.result["series"].as_array().unwrap().len() >= 4);
    assert!(ran.junit.contains("failures=\"0\" errors=\"0\""), "{}", ran.junit);
    assert!(ran.html.starts_with("<!DOCTYPE html>") && ran.html.contains("<svg"), "{}", ran.text);
    // Self-contained: nothing is fetched.
    assert!(!ran.html.contains("src=") && !ran.html.contains("<link"));
}

#[test]
fn a_missed_threshold_ends_with_2() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    // With tickets, straight to the nodes.
    let more = [
        "--set",
        "clients.tickets=true",
        "--set",
        "thresholds=['delivery.p50_ms < 0']",
        "--metrics",
        &service.metrics(),
        "--guests",
    ];
    let ran = run(&scenario(&folder, LIVELY), &service.url(), &more);
    ran.expect(2);
    assert!(ran.broken().is_empty() && ran.text.contains("MISSED delivery.p50_ms < 0"), "{}", ran.text);
    assert!(ran.result["server"]["cpu_seconds"].is_number());
}

#[test]
fn a_generator_that_cannot_keep_up_ends_with_3() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    let ran = run(&scenario(&folder, LIVELY), &service.url(), &["--set", "generator.lag_p99_ms=0"]);
    ran.expect(3);
    assert!(ran.text.contains("VOID") && ran.junit.contains("<error message="), "{}", ran.text);
}

/// Clients who only stay: nothing but the generator's own looks at the clock can tell that it stood still.
const STAY: &str = r#"
name = "stay"
clients.count = 24
lobbies.sizes = [{ members = 4 }]

[[phases]]
name = "stay"
seconds = 5

[generator]
lag_p99_ms = 400
"#;

#[test]
fn a_generator_that_stood_still_for_a_second_ends_with_3() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    let run = Run::start(&scenario(&folder, STAY), &service.url(), &[]);
    until_there(&service);
    run.signal("STOP");
    std::thread::park_timeout(std::time::Duration::from_millis(1_200));
    run.signal("CONT");
    let ran = run.finish();
    ran.expect(3);
    assert!(ran.result["generator"]["lag_max_ms"].as_f64() > Some(1_000.0), "{}", ran.text);
    assert!(ran.broken().is_empty() && ran.text.contains("VOID   phase stay"), "{}", ran.text);
}

#[test]
fn a_generator_that_stood_still_for_less_than_a_hundredth_is_not_blamed_on_the_service() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    let more =
        ["--seconds", "12", "--set", "generator.lag_p99_ms=50", "--threshold", "talk: delivery.max_ms < 50"];
    let run = Run::start(&scenario(&folder, LIVELY), &service.url(), &more);
    until_there(&service);
    std::thread::park_timeout(std::time::Duration::from_secs(2));
    run.signal("STOP");
    std::thread::park_timeout(std::time::Duration::from_millis(100));
    run.signal("CONT");
    let ran = run.finish();
    ran.expect(3);
    assert!(ran.text.contains("VOID   talk: delivery.max_ms < 50: measured "), "{}", ran.text);
    assert!(
        ran.junit.contains("<error message=\"measured ") && ran.junit.contains("failures=\"0\""),
        "{}",
        ran.junit
    );
}

#[test]
fn a_dumb_terminal_gets_plain_lines() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    let (program, file) = (env!("CARGO_BIN_EXE_loadtest"), scenario(&folder, STAY));
    let command = format!("{program} run {file} --target {} --seconds 1", service.url());
    // A terminal of its own.
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).env("TERM", "dumb").env("LOADTEST_SECRET", SECRET);
    let output = script.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains(" s  stay: 24 in a lobby, 24 connected, of 24; "),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn reports_and_the_verdict_need_no_reader() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    let more = ["--threshold", "stay: connect.p60_ms < 0"];
    let mut run = Run::start(&scenario(&folder, STAY), &service.url(), &more);
    run.close_output();
    let ran = run.finish();
    ran.expect(2);
    assert!(ran.junit.contains("name=\"stay: connect.p60_ms &lt; 0\" time=\"0\"><failure"), "{}", ran.junit);
    assert!(ran.html.starts_with("<!DOCTYPE html>"));
}

#[test]
fn usage_and_target_errors_end_with_1() {
    let nobody = "ws://127.0.0.1:9";
    for (arguments, told) in [
        (vec!["run", "chat"], "--target"),
        (vec!["run", "no-such-preset", "--target", nobody], "no-such-preset"),
        (vec!["run", "chat", "--target", "http"], "ws://host:port"),
        (vec!["run", "chat", "--target", nobody], "cannot be reached"),
        (vec!["run", "chat", "--target", nobody, "--set", "clients.count=0"], "clients.count"),
        (vec!["run", "chat", "--target", nobody, "--out", "/dev/null/reports"], "--out /dev/null/reports"),
        (vec!["run", "chat", "--target", nobody, "--threshold", "errors"], "measure operator number"),
        (vec!["compare", "a", "b", "--fail-above", "nan"], "per cent"),
        (vec!["frobnicate"], "frobnicate"),
    ] {
        let output = loadtest(&arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.contains(told), "{arguments:?}: {text}");
    }
    let service = Service::start();
    let ran = run(
        "chat",
        &service.url(),
        &["--secret", "not the service's secret, but long", "--seconds", "600", "--clients", "4"],
    );
    ran.expect(1);
    assert!(ran.text.contains("no client got in: http 401"), "{}", ran.text);
    // A token with {"sub":"ann"}: it is not sent, as it is everybody's.
    let ran =
        run("chat", &service.url(), &["--token-command", "echo x.eyJzdWIiOiJhbm4ifQ.y", "--clients", "4"]);
    ran.expect(1);
    assert!(ran.text.contains(" have the same user, \"ann\""), "{}", ran.text);
}

#[test]
fn an_interrupted_run_reports_what_there_is() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    let run = Run::start(
        &scenario(&folder, LIVELY),
        &service.url(),
        &["--seconds", "600", "--set", "thresholds=['errors <= 0', 'talk: outage.max_ms < 1']"],
    );
    until_there(&service);
    run.signal("INT");
    let ran = run.finish();
    ran.expect(0);
    assert_eq!(ran.result["interrupted"], true);
    assert!(ran.text.contains("outage.max_ms < 1: not judged"), "{}", ran.text);
    assert!(ran.result["total"]["counts"]["joins"].as_u64() >= Some(20), "{}", ran.text);
}

/// Until the clients are there and count.
fn until_there(service: &Service) {
    let begun = std::time::Instant::now();
    while service_sessions(service) < 20 {
        assert!(begun.elapsed().as_secs() < 30, "nobody comes");
        std::thread::park_timeout(std::time::Duration::from_millis(50));
    }
}

fn service_sessions(service: &Service) -> u64 {
    let output = Command::new("curl").args(["-s", &service.metrics()]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let lines =
        text.lines().filter(|line| line.starts_with("mlms_sessions ") || line.starts_with("mlms_sessions{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

#[test]
fn help_and_presets_are_there() {
    let output = loadtest(&["presets"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for preset in ["chat", "fanout", "many-small", "game-100", "storm", "idle", "cross-node"] {
        assert!(text.contains(preset), "{text}");
    }
    let output = loadtest(&["run", "--help"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("--token-command"));
    // Without a target and without a service.
    let output = loadtest(&["run", "fanout", "--dry-run", "--load", "2"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("lobbies: 1 of 1000") && text.contains("80000.0"),
        "{text}"
    );
}

/// A worker, and its address.
fn worker() -> (Child, String) {
    let mut worker = loadtest(&["worker", "--listen", "127.0.0.1:0", "--key", "k"]).spawn().unwrap();
    let mut line = String::new();
    let mut told = BufReader::new(worker.stderr.take().unwrap());
    told.read_line(&mut line).unwrap();
    // What it says later goes nowhere, and does not stop it.
    std::thread::spawn(move || told.lines().map_while(Result::ok).for_each(drop));
    (worker, line.trim().rsplit(' ').next().unwrap().to_owned())
}

#[test]
fn a_worker_that_dies_makes_the_run_void_and_the_others_are_reported() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    let ((mut one, first), (mut other, second)) = (worker(), worker());
    let more = ["--worker", &first, "--worker", &second, "--worker-key", "k"];
    let run = Run::start(&scenario(&folder, LIVELY), &service.url(), &more);
    until_there(&service);
    other.kill().unwrap();
    let ran = run.finish();
    [&mut one, &mut other].into_iter().for_each(|worker| {
        // The other one is dead already.
        let _ = worker.kill();
        worker.wait().unwrap();
    });
    ran.expect(3);
    assert!(ran.text.contains(&format!("a part of the run was lost: worker {second}")), "{}", ran.text);
    let total = &ran.result["total"]["counts"];
    assert!(total["joins"].as_u64() >= Some(8) && total["deliveries"].as_u64() > Some(0), "{}", ran.text);
}

#[test]
fn a_worker_that_stands_still_does_not_hold_up_an_interrupted_run() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    let (mut worker, address) = worker();
    let more = ["--worker", &address, "--worker-key", "k", "--seconds", "600"];
    let run = Run::start(&scenario(&folder, LIVELY), &service.url(), &more);
    until_there(&service);
    assert!(Command::new("kill").args(["-STOP", &worker.id().to_string()]).status().unwrap().success());
    let begun = std::time::Instant::now();
    run.signal("INT");
    let ran = run.finish();
    worker.kill().unwrap();
    worker.wait().unwrap();
    ran.expect(1);
    assert!(begun.elapsed().as_secs() < 15, "{:?}", begun.elapsed());
    let told = format!("worker {address}: silent for 5 s after it was told to stop");
    assert!(ran.text.contains(&told), "{}", ran.text);
}

#[test]
fn connections_that_say_nothing_do_not_shut_a_worker() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    let (mut worker, address) = worker();
    let idle: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let more = ["--worker", &address, "--worker-key", "k"];
    let ran = run(&scenario(&folder, STAY), &service.url(), &[&more[..], &["--seconds", "1"]].concat());
    worker.kill().unwrap();
    worker.wait().unwrap();
    drop(idle);
    ran.expect(0);
}

#[test]
fn workers_merge_into_one_report_and_two_reports_are_compared() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    let (mut worker, address) = worker();
    let file = scenario(&folder, LIVELY);
    let with_key =
        |key| run(&file, &service.url(), &["--worker", &address, "--worker", &address, "--worker-key", key]);
    let refused = with_key("another");
    let ran = with_key("k");
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert!(refused.expect(1).text.contains("the key is another"), "{}", refused.text);
    ran.expect(0);
    assert_eq!(ran.result["generator"]["workers"].as_array().unwrap().len(), 2);
    assert!(ran.result["total"]["counts"]["joins"].as_u64() >= Some(24));

    let (before, after) = (folder.path().join("before.json"), folder.path().join("after.json"));
    std::fs::write(&before, ran.result.to_string()).unwrap();
    let mut worse = ran.result.clone();
    worse["total"]["times"]["delivery"]["p99"] =
        (ran.result["total"]["times"]["delivery"]["p99"].as_f64().unwrap() * 2.0).into();
    std::fs::write(&after, worse.to_string()).unwrap();
    let compare = |one: &Path, other: &Path| {
        let paths = [one.to_str().unwrap(), other.to_str().unwrap()];
        let output = loadtest(&["compare", paths[0], paths[1], "--fail-above", "50"]).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(compare(&before, &before).0, Some(0));
    for (decision, ends_with) in [("void", 3), ("failed", 2)] {
        let mut other = ran.result.clone();
        other["verdict"]["decision"] = decision.into();
        let file = folder.path().join("other.json");
        std::fs::write(&file, other.to_string()).unwrap();
        assert_eq!(compare(&before, &file).0, Some(ends_with), "{decision}");
    }
    let mut interrupted = ran.result.clone();
    (interrupted["interrupted"], interrupted["total"]["to"]) = (true.into(), 1.5.into());
    let file = folder.path().join("interrupted.json");
    std::fs::write(&file, interrupted.to_string()).unwrap();
    let (code, text) = compare(&file, &before);
    // Its rate is another one now.
    assert!(code == Some(2) && text.contains("The run before was interrupted after 2 of 4 s"), "{text}");
    let (code, text) = compare(&before, &after);
    assert!(!text.contains("interrupted"), "{text}");
    assert!(code == Some(2) && text.contains("all: delivery p99, ms") && text.contains("WORSE"), "{text}");
}
