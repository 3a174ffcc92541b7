//! A run that did not reach its fault, or cannot be judged, counts for nothing.

use mlms_checker::{Options, Verdict, What, check_records, check_text};

use crate::service::{Plan, play};

fn quiet() -> Plan {
    Plan { owner_changes: false, removals: false, disconnects: false, ..Plan::new(5) }
}

#[test]
fn a_run_without_its_required_fault_is_void() {
    let records = play(&quiet());
    assert_eq!(check_records(&records, &Options::default()).verdict(), Verdict::Passed);
    let missing =
        "owner_change resume_gap retried_nonce ban kick snapshot reconnect fault:node_killed send=100000";
    for name in missing.split_whitespace() {
        let options = Options { require: vec![name.parse().unwrap()], ..Options::default() };
        let report = check_records(&records, &options);
        assert_eq!(report.verdict(), Verdict::Void, "{name}: {report}");
        assert!(report.to_string().contains("never reached"), "{report}");
    }
}

#[test]
fn an_empty_history_is_void() {
    assert_eq!(check_text("\n", &Options::default()).unwrap().verdict(), Verdict::Void);
}

#[test]
fn acknowledged_events_without_a_final_history_are_void() {
    let mut records = play(&quiet());
    records.retain(|record| !matches!(&record.what, What::History(_)));
    assert_eq!(check_records(&records, &Options::default()).verdict(), Verdict::Void);
}

#[test]
fn a_recorder_that_contradicts_itself_makes_the_run_void() {
    let records = play(&quiet());
    for forget in ["connected", "invoke"] {
        let mut records = records.clone();
        let is_it = |what: &What<'_>| match what {
            What::Connected { .. } => forget == "connected",
            What::Invoke(invoke) => forget == "invoke" && invoke.op == "leave",
            _ => false,
        };
        let index = records.iter().position(|record| is_it(&record.what)).unwrap();
        records.remove(index);
        let report = check_records(&records, &Options::default());
        assert!(!report.void.is_empty(), "{forget}: {report}");
        assert_ne!(report.verdict(), Verdict::Passed);
    }
}

#[test]
fn lines_that_are_no_records_are_named() {
    for (text, line) in
        [("{", 1), ("\n{\"t\":1,\"what\":{\"nothing\":{}}}", 2), ("{\"t\":-1,\"what\":{}}", 1)]
    {
        let error = check_text(text, &Options::default()).unwrap_err();
        assert_eq!(error.line, line, "{error}");
    }
    assert!("no_such_thing".parse::<mlms_checker::Requirement>().is_err());
    assert!("send=many".parse::<mlms_checker::Requirement>().is_err());
}
