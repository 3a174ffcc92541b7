use prometheus::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, TcpStream};

use super::backlog::EMPTIED_MIN;
use super::*;

fn ephemeral(key: &str) -> Shed {
    let lobby = LobbyId::new("den").unwrap();
    let key = LatestKey { lobby: lobby.clone(), from: None, key: key.to_owned() };
    Shed::Ephemeral { lobby, key: Some(Arc::new(key)) }
}

/// An outbox whose peer has a window of so many bytes, and the peer.
fn outbox(window: usize, bytes_max: usize) -> (Outbox, DuplexStream) {
    let (near, far) = tokio::io::duplex(window);
    let wire = Wire::Pipe(Mutex::new(near));
    let metrics = Arc::new(Metrics::new(&Registry::new()));
    (Outbox::new(Encoding::Json, bytes_max, wire, metrics), far)
}

fn push(outbox: &Outbox, bytes: &'static str, shed: Shed) {
    let bytes = Bytes::from_static(bytes.as_bytes());
    outbox.push_joined(&bytes, || std::iter::once((bytes.clone(), shed)));
}

#[tokio::test(start_paused = true)]
async fn what_is_replaced_while_a_write_waits_is_not_written() {
    let (outbox, mut far) = outbox(4, 1 << 20);
    push(&outbox, "abcdef", Shed::Never);
    push(&outbox, "old", ephemeral("place"));
    push(&outbox, "GHI", Shed::Never);
    let drain = outbox.drain();
    tokio::pin!(drain);
    assert!(tokio::time::timeout(std::time::Duration::from_secs(1), &mut drain).await.is_err());
    push(&outbox, "new", ephemeral("place"));
    let mut bytes = vec![0; 12];
    tokio::select! {
        read = far.read_exact(&mut bytes) => assert_eq!(read.unwrap(), 12),
        drained = &mut drain => panic!("{drained:?}"),
    }
    assert_eq!(String::from_utf8(bytes).unwrap(), "abcdefGHInew");
    assert_eq!(outbox.waiting_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_sent_for_ever_takes_the_room_of_one_frame() {
    let (outbox, mut far) = outbox(4, 100);
    push(&outbox, "abcdef", Shed::Never);
    push(&outbox, "0123456789012345678", ephemeral("other"));
    for _ in 0..10_000 {
        push(&outbox, "old", ephemeral("place"));
    }
    push(&outbox, "new", ephemeral("place"));
    assert!(outbox.lock().queue.len() <= 2 * EMPTIED_MIN, "{}", outbox.lock().queue.len());
    // Over the soft bound nothing more is taken, and the newest of a key still is.
    push(&outbox, "shed", ephemeral("third"));
    push(&outbox, "now", ephemeral("place"));
    let mut bytes = Vec::new();
    let all = async {
        let mut chunk = [0; 4];
        while !bytes.ends_with(b"}") {
            let count = far.read(&mut chunk).await.unwrap();
            bytes.extend_from_slice(&chunk[..count]);
        }
    };
    tokio::select! {
        () = all => {}
        drained = outbox.drain() => panic!("{drained:?}"),
    }
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.starts_with("abcdef0123456789012345678now"), "{text}");
    assert!(text.contains(r#""ev":"lag""#) && text.ends_with(r#""dropped":1}"#), "{text}");
}

/// An outbox over a real connection, and its peer.
async fn line() -> (Outbox, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (far, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let wire = Wire::Tcp(Line::new(accepted.unwrap().0).unwrap());
    let metrics = Arc::new(Metrics::new(&Registry::new()));
    (Outbox::new(Encoding::Json, 1 << 30, wire, metrics), far.unwrap())
}

async fn read(outbox: &Outbox) -> Vec<u8> {
    let mut space = [0; 64];
    let mut buf = ReadBuf::new(&mut space);
    std::future::poll_fn(|cx| outbox.poll_read(cx, &mut buf)).await.unwrap();
    buf.filled().to_vec()
}

#[tokio::test]
async fn a_socket_that_took_nothing_gets_all_of_it_in_order_when_it_does() {
    let (outbox, mut far) = line().await;
    let mut sent = Vec::new();
    for number in 0_u32.. {
        let frame = Bytes::from(number.to_be_bytes().repeat(16 * 1024));
        sent.extend_from_slice(&frame);
        outbox.push(&frame);
        // Beyond the one that is cut, so that more than one waits.
        if outbox.waiting_bytes() > 4 * frame.len() {
            break;
        }
    }
    let mut got = vec![0; sent.len()];
    tokio::select! {
        read = far.read_exact(&mut got) => assert_eq!(read.unwrap(), sent.len()),
        drained = outbox.drain() => panic!("{drained:?}"),
    }
    assert!(got == sent, "the bytes are not as they were sent");
    assert_eq!(outbox.waiting_bytes(), 0);
}

#[tokio::test]
async fn what_comes_in_pieces_is_read_up_to_the_end_behind_it() {
    let (outbox, mut far) = line().await;
    for piece in ["one", "two"] {
        // The reader waits before it comes, and knows that the last piece was all.
        let (got, sent) = tokio::join!(read(&outbox), far.write_all(piece.as_bytes()));
        sent.unwrap();
        assert_eq!(got, piece.as_bytes());
    }
    far.write_all(b"last words").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(read(&outbox).await, b"last words");
    assert_eq!(read(&outbox).await, b"");
}

#[tokio::test]
async fn a_connection_that_ends_with_something_unread_still_says_its_last_words() {
    let (outbox, mut far) = line().await;
    far.write_all(b"nobody reads this").await.unwrap();
    push(&outbox, "last words", Shed::Never);
    drop(outbox);
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"last words");
}

#[test]
fn an_outbox_lies_in_three_lines_of_the_caches() {
    // Beside it in its allocation stand the two counters of an Arc.
    assert!(size_of::<Outbox>() + 2 * size_of::<usize>() <= 3 * 64, "{}", size_of::<Outbox>());
}

#[tokio::test(start_paused = true)]
async fn nothing_follows_the_answer_to_a_close() {
    let (outbox, mut far) = outbox(100, 100);
    outbox.push_raw(&[0x8a, 0]);
    outbox.push_raw(&[0x88, 2, 0x03, 0xe8]);
    push(&outbox, "what a lobby says meanwhile", Shed::Never);
    outbox.close(CloseCode::Draining, "and its node", Reconnect::Now, None);
    assert_eq!(outbox.drain().await, Drained::Closed(1000));
    let mut bytes = vec![0; 6];
    far.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, [0x8a, 0, 0x88, 2, 0x03, 0xe8]);
    drop(outbox);
    assert_eq!(far.read(&mut bytes).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_large_reply_counts_apart_and_only_one_such_bound_may_wait() {
    let (outbox, _far) = outbox(4, 100);
    let reply = Bytes::from(vec![b'r'; LARGE_BYTES_MAX / 2]);
    outbox.push(&reply);
    push(&outbox, "an event behind it", Shed::Never);
    outbox.push(&reply);
    assert!(!outbox.is_closing(), "what was asked for may wait");
    outbox.push(&reply);
    assert!(outbox.is_closing(), "without an end it may not");
    assert!(outbox.waiting_bytes() < LARGE_BYTES_MAX);
}

#[tokio::test(start_paused = true)]
async fn of_joined_frames_only_the_cut_one_must_be_finished() {
    let (outbox, mut far) = outbox(8, 100);
    let frames = [("abcdef", Shed::Never), ("ghi", Shed::Never), ("dropped", ephemeral("place"))];
    let joined = Bytes::from(frames.iter().map(|(text, _)| *text).collect::<String>());
    let frames = || frames.clone().into_iter().map(|(text, shed)| (Bytes::from(text), shed));
    outbox.push_joined(&joined, frames);
    push(&outbox, "newest.", ephemeral("place"));
    let mut bytes = vec![0; 16];
    tokio::select! {
        read = far.read_exact(&mut bytes) => assert_eq!(read.unwrap(), 16),
        drained = outbox.drain() => panic!("{drained:?}"),
    }
    assert_eq!(String::from_utf8(bytes).unwrap(), "abcdefghinewest.");
    assert_eq!(outbox.waiting_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_its_cut_frame_whole_and_then_the_close() {
    let (outbox, mut far) = outbox(4, 10);
    push(&outbox, "abcdef", Shed::Never);
    push(&outbox, "x", ephemeral("dropped"));
    push(&outbox, "dropped", Shed::Never);
    let drain = outbox.drain();
    tokio::pin!(drain);
    assert!(tokio::time::timeout(std::time::Duration::from_secs(1), &mut drain).await.is_err());
    // Over the bound while a write waits.
    push(&outbox, "dropped", Shed::Never);
    assert!(outbox.is_closing());
    let mut bytes = vec![0; 6];
    tokio::select! {
        read = far.read_exact(&mut bytes) => assert_eq!(read.unwrap(), 6),
        drained = &mut drain => panic!("{drained:?}"),
    }
    assert_eq!(bytes, b"abcdef");
    let mut rest = Vec::new();
    let all = async {
        let mut chunk = [0; 4];
        while !rest.ends_with(SLOW.as_bytes()) || rest.len() < 100 {
            let count = far.read(&mut chunk).await.unwrap();
            rest.extend_from_slice(&chunk[..count]);
        }
    };
    let (drained, ()) = tokio::join!(drain, all);
    assert_eq!(drained, Drained::Closed(4002));
    let told = String::from_utf8_lossy(&rest);
    let (lag, bye) = (told.find(r#""ev":"lag""#), told.find(r#""ev":"bye","code":4002"#));
    assert!(lag.is_some() && lag < bye, "{told}");
    let close = close_frame(4002, SLOW);
    assert!(rest.ends_with(&close));
}
