//! Two sides of a trunk, on real connections.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection's two ends.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
    (ours.unwrap(), theirs.unwrap().0)
}

type Outcome = JoinHandle<Result<(), Broken>>;

/// A side that takes every stream whose request is not "no", and gives it to whoever tests it.
fn accepting(socket: TcpStream) -> (Trunk, mpsc::Receiver<Stream>, Outcome, CancellationToken) {
    let (give, given) = mpsc::channel(10_000);
    let (trunk, stop) = (Trunk::new(None), CancellationToken::new());
    let (side, stopped) = (trunk.clone(), stop.clone());
    let opened = move |opening: Opening| match &opening.request[..] {
        b"no" => opening.refuse(403),
        b"forget" => drop(opening),
        _ => give.try_send(opening.accept()).unwrap(),
    };
    let run = tokio::spawn(async move { side.run(socket, Bytes::new(), opened, stopped).await });
    (trunk, given, run, stop)
}

fn opening(socket: TcpStream) -> (Trunk, Outcome) {
    let trunk = Trunk::new(None);
    let side = trunk.clone();
    let never = CancellationToken::new();
    let run =
        tokio::spawn(
            async move { side.run(socket, Bytes::new(), |opening| opening.refuse(400), never).await },
        );
    (trunk, run)
}

struct Pair {
    opener: Trunk,
    acceptor: Trunk,
    accepted: mpsc::Receiver<Stream>,
    runs: [Outcome; 2],
    stop: CancellationToken,
}

impl Pair {
    async fn new() -> Pair {
        let (ours, theirs) = connection().await;
        let (acceptor, accepted, theirs, stop) = accepting(theirs);
        let (opener, ours) = opening(ours);
        Pair { opener, acceptor, accepted, runs: [ours, theirs], stop }
    }

    async fn stream(&mut self) -> (Stream, Stream) {
        let ours = self.opener.open(b"yes").await.unwrap();
        (ours, self.accepted.recv().await.unwrap())
    }

    async fn until_empty(&self) {
        let empty = async {
            while self.opener.streams() + self.acceptor.streams() > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, empty).await.expect("both sides forget what is closed");
    }
}

async fn write_all(stream: &Stream, mut bytes: Bytes) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = poll_fn(|cx| stream.poll_write(cx, &bytes)).await?;
        bytes.advance(written);
    }
    Ok(())
}

async fn read(stream: &Stream, most: usize) -> Vec<u8> {
    let mut space = vec![0; most];
    let mut buf = tokio::io::ReadBuf::new(&mut space);
    poll_fn(|cx| stream.poll_read(cx, &mut buf)).await;
    buf.filled().to_vec()
}

async fn read_to_end(stream: &Stream) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let part = timeout(PATIENCE, read(stream, 3_000)).await.expect("something comes");
        if part.is_empty() {
            return all;
        }
        all.extend(part);
    }
}

/// Bytes that tell their stream and their place.
fn noise(length: usize, seed: usize) -> Bytes {
    (0..length).map(|place| (place.wrapping_mul(31) ^ (place >> 7) ^ seed) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_carry_their_own_bytes_both_ways_and_are_forgotten() {
    let mut pair = Pair::new().await;
    let mut talks = Vec::new();
    for number in 0..40 {
        let (ours, theirs) = pair.stream().await;
        for (end, seed, expected) in [(ours, number, number + 100), (theirs, number + 100, number)] {
            talks.push(tokio::spawn(async move {
                let bytes = noise(300_000 + seed * 1_000, seed);
                let writing = async {
                    write_all(&end, bytes).await.unwrap();
                    end.end();
                };
                let ((), got) = tokio::join!(writing, read_to_end(&end));
                assert!(got == noise(300_000 + expected * 1_000, expected), "stream {number}: {}", got.len());
            }));
        }
    }
    for talk in talks {
        talk.await.unwrap();
    }
    pair.until_empty().await;
}

#[tokio::test]
async fn who_does_not_read_gets_a_window_and_holds_up_nobody() {
    let mut pair = Pair::new().await;
    let (slow, to_slow) = pair.stream().await;
    let (quick, to_quick) = pair.stream().await;
    let flood = noise(WINDOW as usize + 10, 1);
    assert_eq!(to_slow.write(&flood).unwrap(), WINDOW as usize);
    assert_eq!(to_slow.write(&flood).unwrap_err().kind(), io::ErrorKind::WouldBlock);

    // Far more than one window, while the other stream stands still.
    let much = noise(10 * WINDOW as usize, 2);
    let writing = async {
        write_all(&to_quick, much.clone()).await.unwrap();
        drop(to_quick);
    };
    let ((), got) = tokio::join!(writing, read_to_end(&quick));
    assert!(got == much);

    let rest = tokio::spawn(async move {
        write_all(&to_slow, flood.slice(WINDOW as usize..)).await.unwrap();
        to_slow
    });
    let got = read(&slow, WINDOW as usize).await;
    assert!(got[..] == noise(got.len(), 1));
    let _to_slow = rest.await.unwrap();
}

#[tokio::test]
async fn who_reads_without_end_gives_others_their_turn() {
    let mut pair = Pair::new().await;
    let (ours, theirs) = pair.stream().await;
    ours.write_slice(&[1; 10_000]).unwrap();
    read(&theirs, 1).await;
    let reads = poll_fn(move |cx| {
        let reads = (0..10_000).take_while(|_| {
            let mut space = [0];
            theirs.poll_read(cx, &mut tokio::io::ReadBuf::new(&mut space)).is_ready()
        });
        Poll::Ready(reads.count())
    });
    let reads = tokio::spawn(reads).await.unwrap();
    assert!((1..1_000).contains(&reads), "{reads}");
}

#[tokio::test]
async fn what_was_said_before_a_close_arrives_and_what_comes_back_is_refused() {
    let mut pair = Pair::new().await;
    let (ours, theirs) = pair.stream().await;
    theirs.write(&Bytes::from_static(b"farewell")).unwrap();
    drop(theirs);
    assert_eq!(read_to_end(&ours).await, b"farewell");
    assert_eq!(ours.write_slice(b"late").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    drop(ours);
    pair.until_empty().await;

    let (ours, theirs) = pair.stream().await;
    ours.write_slice(b"question").unwrap();
    ours.end();
    assert_eq!(read_to_end(&theirs).await, b"question");
    theirs.write_slice(b"answer").unwrap();
    drop(theirs);
    assert_eq!(read_to_end(&ours).await, b"answer");
    drop(ours);
    pair.until_empty().await;
}

#[tokio::test]
async fn the_same_bytes_for_many_reach_all_their_sockets() {
    const MEMBERS: usize = 700;
    let mut pair = Pair::new().await;
    let (mut members, mut carried) = (Vec::new(), Vec::new());
    for _ in 0..MEMBERS {
        let (ours, theirs) = pair.stream().await;
        let (player, socket) = connection().await;
        carried.push(tokio::spawn(async move {
            let (from, to) = socket.into_split();
            ours.deliver_to(to);
            let outcome = poll_fn(|cx| ours.poll_delivered(cx)).await;
            drop(from);
            outcome
        }));
        members.push((theirs, player));
    }
    let frames: Vec<Bytes> = (0..50).map(|number| noise(200, number)).collect();
    for frame in &frames {
        for (stream, _) in &members {
            assert_eq!(stream.write(frame).unwrap(), frame.len());
        }
    }
    let expected = frames.concat();
    for (stream, mut player) in members {
        drop(stream);
        let mut heard = Vec::new();
        timeout(PATIENCE, player.read_to_end(&mut heard)).await.expect("all comes").unwrap();
        assert!(heard == expected, "{} bytes", heard.len());
    }
    for carried in carried {
        carried.await.unwrap().unwrap();
    }
    pair.until_empty().await;
}

#[tokio::test]
async fn a_socket_that_does_not_take_all_gets_the_rest_in_order() {
    let mut pair = Pair::new().await;
    let (ours, theirs) = pair.stream().await;
    let (mut player, socket) = connection().await;
    SockRef::from(&socket).set_send_buffer_size(128 * 1024).unwrap();
    SockRef::from(&player).set_recv_buffer_size(256 * 1024).unwrap();
    let (_from, to) = socket.into_split();
    ours.deliver_to(to);
    let much = noise(20 * WINDOW as usize, 3);
    let writing = async {
        write_all(&theirs, much.clone()).await.unwrap();
        drop(theirs);
    };
    let delivering = poll_fn(|cx| ours.poll_delivered(cx));
    let mut heard = Vec::new();
    let ((), delivered, heard_all) = tokio::join!(writing, delivering, player.read_to_end(&mut heard));
    delivered.unwrap();
    heard_all.unwrap();
    assert!(heard == much, "{} bytes", heard.len());
}

#[tokio::test]
async fn a_socket_that_is_gone_ends_its_stream_alone() {
    let mut pair = Pair::new().await;
    let (ours, theirs) = pair.stream().await;
    let (player, socket) = connection().await;
    SockRef::from(&player).set_linger(Some(Duration::ZERO)).unwrap();
    drop(player);
    let (_from, to) = socket.into_split();
    ours.deliver_to(to);
    let failing = tokio::spawn(async move { poll_fn(|cx| ours.poll_delivered(cx)).await });
    // The first write may still go out before the kernel knows.
    while write_all(&theirs, noise(1_000, 4)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    failing.await.unwrap().unwrap_err();

    let (ours, theirs) = pair.stream().await;
    theirs.write_slice(b"hello").unwrap();
    assert_eq!(read(&ours, 5).await, b"hello");
}

#[tokio::test]
async fn openings_are_refused_with_a_status_and_may_be_given_up() {
    let mut pair = Pair::new().await;
    assert_eq!(pair.opener.open(b"no").await.unwrap_err(), Unopened::Refused(403));
    assert_eq!(pair.opener.open(b"forget").await.unwrap_err(), Unopened::Refused(UNAVAILABLE));
    pair.until_empty().await;

    let mut given_up = Box::pin(pair.opener.open(b"yes"));
    assert!(given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(given_up);
    let late = pair.accepted.recv().await.unwrap();
    assert_eq!(read_to_end(&late).await, b"");
    drop(late);
    pair.until_empty().await;
}

#[tokio::test]
async fn all_streams_end_with_the_connection_and_none_begins_after_it() {
    let mut pair = Pair::new().await;
    let (ours, theirs) = pair.stream().await;
    let [run, theirs_run] = pair.runs;
    run.abort();
    assert_eq!(theirs_run.await.unwrap(), Ok(()));
    assert!(run.await.unwrap_err().is_cancelled());
    for end in [&ours, &theirs] {
        assert_eq!(read_to_end(end).await, b"");
        assert_eq!(end.write_slice(b"late").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
    assert!(pair.opener.is_over());
    assert_eq!(pair.opener.open(b"yes").await.unwrap_err(), Unopened::Over);
    assert_eq!((pair.opener.streams(), pair.acceptor.streams()), (0, 0));
}

#[tokio::test]
async fn a_side_that_stops_says_what_it_had_to_say() {
    let mut pair = Pair::new().await;
    let (ours, theirs) = pair.stream().await;
    theirs.write_slice(b"the last word").unwrap();
    drop(theirs);
    pair.stop.cancel();
    assert_eq!(read_to_end(&ours).await, b"the last word");
    let [ours_run, theirs_run] = pair.runs;
    assert_eq!((ours_run.await.unwrap(), theirs_run.await.unwrap()), (Ok(()), Ok(())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_words_arrive_though_the_other_side_goes_on_talking() {
    let (mut peer, theirs) = connection().await;
    // Some of the words still wait on the side that says them.
    SockRef::from(&peer).set_recv_buffer_size(64 * 1024).unwrap();
    let (_, mut accepted, run, stop) = accepting(theirs);
    let openings: Vec<_> = (0..20).map(|number| (Kind::Open, number, &b"yes"[..])).collect();
    peer.write_all(&frames(&openings)).await.unwrap();
    for number in 0..20 {
        let stream = accepted.recv().await.unwrap();
        write_all(&stream, noise(50_000, number)).await.unwrap();
    }
    stop.cancel();
    // Of players who have heard their end; long enough that a side which does not listen to the end has gone.
    for _ in 0..40 {
        let _ = peer.write_all(&frames(&[(Kind::Close, 0, b"")])).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut heard = Vec::new();
    peer.read_to_end(&mut heard).await.unwrap();
    let (mut said, mut rest) = (0, &heard[..]);
    while let Some((frame, length)) = Frame::read(rest).unwrap() {
        said += frame.payload.len();
        rest = &rest[length..];
    }
    assert_eq!((said, rest.len()), (20 * 50_000, 0));
    drop(peer);
    assert_eq!(run.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn a_peer_that_asks_without_end_and_hears_nothing_is_not_waited_for() {
    let (mut ours, theirs) = connection().await;
    let (_trunk, _accepted, run, _) = accepting(theirs);
    // Each is refused with a frame of its own, and none of those is read.
    let asking = frames(&[(Kind::Open, 1, b"no")]).repeat(1_000);
    while ours.write_all(&asking).await.is_ok() {}
    run.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn an_opening_waits_for_room_as_data_does() {
    let pair = Pair::new().await;
    let block = vec![0; WINDOW as usize];
    // Nothing else runs meanwhile. What is said is for a stream that there is not.
    while pair.opener.0.outgoing.data(99, &block) == Gathered::Taken {}
    let mut waiting = Box::pin(pair.opener.open(b"yes"));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(pair.opener.streams(), 0, "nobody is asked yet");
    drop(timeout(PATIENCE, waiting).await.expect("there is room again").unwrap());
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn the_end_wakes_those_who_wait_for_room() {
    let (ours, _theirs) = connection().await;
    let trunk = Trunk::new(None);
    let mut run = Box::pin(trunk.run(ours, Bytes::new(), drop, CancellationToken::new()));
    assert!(run.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let stream = Stream::new(trunk.0.lock().begin(&trunk.0).unwrap());
    let block = vec![0; WINDOW as usize];
    while trunk.0.outgoing.data(99, &block) == Gathered::Taken {}
    let woken: [Arc<Woken>; 2] = Default::default();
    let [opener, writer] = woken.clone().map(Waker::from);
    let mut opening = Box::pin(trunk.open(b"yes"));
    assert!(opening.as_mut().poll(&mut Context::from_waker(&opener)).is_pending());
    assert!(stream.poll_room(&Context::from_waker(&writer)).is_pending());

    drop(run);
    assert_eq!(woken.map(|woken| woken.0.load(Ordering::Relaxed)), [1, 1]);
    assert_eq!(opening.await.unwrap_err(), Unopened::Over);
    let room = poll_fn(|cx| stream.poll_room(cx)).await;
    assert_eq!(room.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_side_that_was_dropped_before_it_ran_is_over() {
    let (ours, _theirs) = connection().await;
    let trunk = Trunk::new(None);
    drop(trunk.run(ours, Bytes::new(), drop, CancellationToken::new()));
    assert!(trunk.is_over());
    assert_eq!(trunk.open(b"yes").await.unwrap_err(), Unopened::Over);
}

#[tokio::test]
async fn an_opening_that_is_closed_without_an_answer_is_refused() {
    let (mut peer, socket) = connection().await;
    let (trunk, _run) = opening(socket);
    let asking = async {
        let opened = timeout(PATIENCE, trunk.open(b"yes")).await.expect("it is answered");
        assert_eq!(opened.unwrap_err(), Unopened::Refused(UNAVAILABLE));
    };
    let answering = async {
        let mut asked = frames(&[(Kind::Open, 0, b"yes")]);
        peer.read_exact(&mut asked).await.unwrap();
        peer.write_all(&frames(&[(Kind::Close, 0, b"")])).await.unwrap();
    };
    tokio::join!(asking, answering);
    assert_eq!(trunk.streams(), 0);
}

/// Openings of each of those who open at the same time.
const OPENINGS: usize = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn numbers_are_used_again_at_once_by_many() {
    let (ours, theirs) = connection().await;
    let (opener, _run) = opening(ours);
    let acceptor = Trunk::new(None);
    let side = acceptor.clone();
    let opened = |opening: Opening| {
        // The last word is said on another thread than the one that hears the next opening.
        tokio::spawn(async move {
            match &opening.request[..] {
                b"no" => opening.refuse(403),
                // This side has the last word.
                _ => assert_eq!(read(&opening.accept(), 1).await, b""),
            }
        });
    };
    tokio::spawn(async move { side.run(theirs, Bytes::new(), opened, CancellationToken::new()).await });
    let openers = (0..8).map(|_| {
        let opener = opener.clone();
        tokio::spawn(async move {
            for number in 0..OPENINGS {
                opener.0.lock().next = 0;
                let request = if number % 3 == 0 { b"no".as_slice() } else { b"yes" };
                let opened = timeout(PATIENCE, opener.open(request)).await.expect("an answer comes");
                assert_eq!(opened.err(), (number % 3 == 0).then_some(Unopened::Refused(403)));
            }
        })
    });
    for opener in openers.collect::<Vec<_>>() {
        opener.await.unwrap();
    }
    let empty = async {
        while opener.streams() + acceptor.streams() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, empty).await.expect("both sides forget what is closed");
}

/// What becomes of a side that is told these bytes.
async fn told(bytes: &[u8]) -> Result<(), Broken> {
    let (mut ours, theirs) = connection().await;
    let (_, _accepted, run, _) = accepting(theirs);
    ours.write_all(bytes).await.unwrap();
    ours.shutdown().await.unwrap();
    timeout(PATIENCE, run).await.expect("it ends").unwrap()
}

fn frames(all: &[(Kind, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, stream, payload) in all {
        frame::append(&mut bytes, *kind, *stream, payload);
    }
    bytes
}

#[tokio::test]
async fn a_side_that_breaks_the_format_is_not_listened_to_any_more() {
    let full = vec![0; WINDOW as usize];
    let open = (Kind::Open, 1, &b"yes"[..]);
    let broken = [
        vec![0; 9],
        frames(&[open, open]),
        frames(&[open, (Kind::Data, 1, &full), (Kind::Data, 1, b"x")]),
        frames(&[open, (Kind::Window, 1, &1_u32.to_be_bytes())]),
        frames(&[open, (Kind::Window, 1, b"abc")]),
        frames(&[(Kind::Refuse, 1, &u32::MAX.to_be_bytes())]),
    ];
    for bytes in broken {
        assert!(told(&bytes).await.is_err(), "{:?}", &bytes[..9]);
    }
    // Of streams that are gone, or never were, words may still be under way.
    let late = frames(&[
        (Kind::Data, 7, b"late"),
        (Kind::Window, 7, &1_u32.to_be_bytes()),
        (Kind::End, 7, b""),
        (Kind::Close, 7, b""),
        (Kind::Accept, 7, b""),
        open,
        (Kind::Close, 1, b""),
        (Kind::Data, 1, b"late"),
    ]);
    assert_eq!(told(&late).await, Ok(()));
    assert_eq!(told(&frames(&[open])[..5]).await, Ok(()), "cut off in the middle of a frame");
}
