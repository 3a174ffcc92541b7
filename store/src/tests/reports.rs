//! Reports and blocks: the same on every backend.

use mlms_protocol::{Body, LobbyEvent, Millis, Seq};

use super::{Folder, event, mariadb, ready, said, user};
use crate::{MessageReport, Store};

async fn check(store: &Store) {
    let (ann, bob, odd) = (user("ann"), user("bob"), user("Bob "));
    assert!(store.blocked_by(&ann, 10).await.unwrap().is_empty());
    for (at, blocked) in [(1, &bob), (2, &odd), (3, &bob)] {
        store.block(&ann, blocked, Millis(at)).await.unwrap();
    }
    store.block(&bob, &ann, Millis(4)).await.unwrap();
    assert_eq!(store.blocked_by(&ann, 10).await.unwrap(), [bob.clone(), odd.clone()]);
    assert_eq!(store.blocked_by(&ann, 1).await.unwrap(), std::slice::from_ref(&bob));
    store.unblock(&ann, &bob).await.unwrap();
    store.unblock(&ann, &bob).await.unwrap();
    assert_eq!(store.blocked_by(&ann, 10).await.unwrap(), std::slice::from_ref(&odd));
    assert_eq!(store.blocked_by(&bob, 10).await.unwrap(), std::slice::from_ref(&ann));
    assert!(store.blocked_by_each(&[]).await.unwrap().is_empty());
    let crowd: Vec<_> = (0..40).map(|n| user(&format!("nobody-{n}"))).collect();
    let crowd: Vec<_> = crowd.into_iter().chain([ann.clone(), bob.clone()]).collect();
    let mut pairs = store.blocked_by_each(&crowd).await.unwrap();
    pairs.sort();
    assert_eq!(pairs, [(ann.clone(), odd.clone()), (bob.clone(), ann.clone())]);

    let sequenced = |seq, change| LobbyEvent::clone(&event("arena", 1, seq, change));
    let report = |by: &str, seq: u64, at: u64, reason: Option<&str>| MessageReport {
        by: user(by),
        at: Millis(at),
        reason: reason.map(str::to_owned),
        message: sequenced(seq, said("bob", Body::text("dr\u{f6}p \u{1f980}"))),
        context: vec![sequenced(seq - 1, said("ann", Body::text("hi")))],
    };
    store.file_report(&report("ann", 7, 100, Some("r\u{fc}de"))).await.unwrap();
    store.file_report(&report("ann", 7, 900, Some("again"))).await.unwrap();
    for by in ["cat", "Bob ", "dan"] {
        store.file_report(&report(by, 8, 200, None)).await.unwrap();
    }
    let mut all = Vec::new();
    let mut before: Option<(Millis, String)> = None;
    loop {
        let cursor = before.as_ref().map(|(at, id)| (*at, id.as_str()));
        let page = store.reports(cursor, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some((last.at, last.id.clone()));
        all.extend(page);
    }
    let told: Vec<_> = all.iter().map(|report| (report.by.as_str(), report.seq, report.at.0)).collect();
    assert_eq!(
        told,
        [("dan", Seq(8), 200), ("cat", Seq(8), 200), ("Bob ", Seq(8), 200), ("ann", Seq(7), 100)]
    );
    let first = &all[3];
    assert_eq!((first.user.as_ref(), first.reason.as_deref()), (Some(&bob), Some("r\u{fc}de")));
    assert_eq!(first.message["body"], "dr\u{f6}p \u{1f980}");
    assert_eq!(first.context[0]["seq"], 6);
    assert_eq!(all[0].reason, None);
}

#[tokio::test]
async fn memory_keeps_reports_and_blocks() {
    check(&Store::memory()).await;
}

#[tokio::test]
async fn sqlite_keeps_reports_and_blocks() {
    let folder = Folder::new();
    check(&ready(&folder.sqlite_url()).await).await;
}

#[tokio::test]
async fn mariadb_keeps_reports_and_blocks() {
    check(&ready(&mariadb::database().await).await).await;
}
