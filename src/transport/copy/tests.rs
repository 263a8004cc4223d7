use super::*;
use bytes::Bytes;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    task::{JoinHandle, yield_now},
    time::{advance, sleep},
};

impl Pieces for DuplexStream {}

const IDLE: Duration = Duration::from_secs(60);
const KIB: usize = 1 << 10;

/// Starts a copy; returns the two far ends and the result to come.
fn start(buffer: usize, idle: Option<Duration>) -> (DuplexStream, DuplexStream, JoinHandle<Copied>) {
    let ((client, mut downstream), (mut upstream, server)) = (duplex(buffer), duplex(buffer));
    let copying = tokio::spawn(async move { bidirectional(&mut downstream, &mut upstream, idle, |_, _| {}).await });
    (client, server, copying)
}

async fn read_all(stream: &mut DuplexStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}

#[tokio::test]
async fn a_half_close_is_passed_on_and_the_other_direction_goes_on() {
    for client_first in [true, false] {
        let (client, server, copying) = start(64, None);
        let (mut first, mut second) = if client_first { (client, server) } else { (server, client) };
        first.write_all(b"hello").await.unwrap();
        first.shutdown().await.unwrap();
        assert_eq!(read_all(&mut second).await, b"hello");
        second.write_all(b"goodbye").await.unwrap();
        second.shutdown().await.unwrap();
        assert_eq!(read_all(&mut first).await, b"goodbye");
        let copied = copying.await.unwrap();
        assert!(matches!(copied.end, End::Complete));
        let counts = if client_first { (5, 7) } else { (7, 5) };
        assert_eq!((copied.to_upstream, copied.to_downstream), counts);
    }
}

#[tokio::test]
async fn much_data_arrives_whole_both_ways_and_is_counted_live() {
    let data: Vec<u8> = (0..3 << 20).map(|i: u32| (i ^ (i >> 8)) as u8).collect();
    let ((client, mut downstream), (mut upstream, server)) = (duplex(7000), duplex(1000));
    let counts = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
    let [up, down] = counts.clone();
    let copying = tokio::spawn(async move {
        let count = move |direction, n: usize| {
            let counter = if direction == Direction::Upstream { &up } else { &down };
            counter.fetch_add(n as u64, Relaxed);
        };
        bidirectional(&mut downstream, &mut upstream, None, count).await
    });
    let mut ends = Vec::new();
    for stream in [client, server] {
        let ((mut read, mut write), data) = (tokio::io::split(stream), data.clone());
        ends.push(tokio::spawn(async move {
            let mut all = Vec::new();
            let write = async {
                write.write_all(&data).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let ((), read) = tokio::join!(write, read.read_to_end(&mut all));
            read.unwrap();
            assert!(all == data);
        }));
    }
    for end in ends {
        end.await.unwrap();
    }
    let copied = copying.await.unwrap();
    assert_eq!((copied.to_upstream, copied.to_downstream), (3 << 20, 3 << 20));
    assert_eq!(counts.map(|count| count.load(Relaxed)), [3 << 20, 3 << 20]);
}

#[tokio::test(start_paused = true)]
async fn a_half_open_connection_ends_when_nothing_moves() {
    let (mut client, mut server, copying) = start(64, Some(IDLE));
    client.shutdown().await.unwrap();
    assert!(read_all(&mut server).await.is_empty());
    for _ in 0..10 {
        sleep(IDLE - Duration::from_secs(1)).await;
        server.write_u8(1).await.unwrap();
        client.read_u8().await.unwrap();
    }
    let last = Instant::now();
    let copied = copying.await.unwrap();
    assert!(matches!(copied.end, End::HalfOpenIdle));
    assert_eq!(copied.to_downstream, 10);
    let waited = last.elapsed();
    assert!(waited >= IDLE && waited < IDLE + Duration::from_secs(1), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn an_open_connection_may_be_silent_for_ever() {
    let (client, _server, copying) = start(64, Some(IDLE));
    sleep(Duration::from_secs(24 * 3600)).await;
    assert!(!copying.is_finished());
    drop(client);
    assert!(matches!(copying.await.unwrap().end, End::HalfOpenIdle));
}

/// Fails where it is told to, else is silent.
struct Broken {
    read: bool,
    write: bool,
}

impl Pieces for Broken {}

impl AsyncRead for Broken {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read { Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())) } else { Poll::Pending }
    }
}

impl AsyncWrite for Broken {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(if self.write { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(buf.len()) })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn the_side_that_failed_is_named() {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    for (read, kind) in [(true, ConnectionReset), (false, BrokenPipe)] {
        let broken = || Broken { read, write: !read };
        let (mut far, mut near) = duplex(64);
        far.write_all(b"x").await.unwrap();
        let upstream = bidirectional(&mut near, &mut broken(), None, |_, _| {}).await;
        far.write_all(b"x").await.unwrap();
        let downstream = bidirectional(&mut broken(), &mut near, None, |_, _| {}).await;
        for (copied, expected) in [(upstream, Side::Upstream), (downstream, Side::Downstream)] {
            let End::Failed { side, error } = copied.end else { panic!("{copied:?}") };
            assert_eq!((side, error.kind()), (expected, kind));
        }
    }
}

/// Sends `n` bytes through the pipe.
async fn pump(pipe: &mut Pipe, n: usize) {
    let (mut far, mut near) = duplex(n);
    far.write_all(&vec![0; n]).await.unwrap();
    let target = pipe.moved() + n as u64;
    poll_fn(|cx| match pipe.poll(cx, &mut near, &mut Broken { read: false, write: false }, |_| {}) {
        Ok(false) if pipe.moved() == target => Poll::Ready(()),
        Ok(false) => Poll::Pending,
        other => panic!("{other:?}"),
    })
    .await;
}

#[tokio::test]
async fn buffers_grow_with_what_moves_and_shrink_when_nothing_does() {
    let mut pipe = Pipe::default();
    assert_eq!(pipe.capacity(), 0);
    for _ in 0..2 {
        // (bytes, buffer afterwards); the next size is taken by the read that follows.
        for (n, capacity) in [(1, KIB), (127 * KIB, KIB), (KIB, 16 * KIB), (9 << 20, 16 * KIB), (2 << 20, 256 * KIB)] {
            pump(&mut pipe, n).await;
            assert_eq!(pipe.capacity(), capacity, "after {n} more bytes");
            pipe.shrink_if_idle();
            assert_eq!(pipe.capacity(), capacity, "something has moved since the last look");
        }
        pipe.shrink_if_idle();
        assert!(!pipe.is_large());
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_gives_its_buffers_back_and_needs_no_timer() {
    let ((mut client, mut downstream), (mut upstream, _server)) = (duplex(KIB << 10), duplex(KIB << 10));
    let mut copy = Copy {
        downstream: &mut downstream,
        upstream: &mut upstream,
        on_bytes: |_, _| {},
        to_upstream: Pipe::default(),
        to_downstream: Pipe::default(),
        half_open_idle: Some(IDLE),
        idle_at: None,
        shrink_at: None,
    };
    let mut timer = pin!(sleep(Duration::ZERO));
    client.write_all(&[0; 512 * KIB]).await.unwrap();
    // Each poll in a fresh turn of the task: within one turn the budget would run out.
    let mut moved = 0;
    while moved < 512 * KIB as u64 {
        assert!(poll_fn(|cx| Poll::Ready(copy.poll(cx, timer.as_mut()).is_pending())).await);
        moved = copy.to_upstream.moved();
        yield_now().await;
    }
    assert!(copy.to_upstream.is_large() && copy.shrink_at.is_some());
    for _ in 0..2 {
        advance(SHRINK_AFTER).await;
        assert!(poll_fn(|cx| Poll::Ready(copy.poll(cx, timer.as_mut()).is_pending())).await);
    }
    assert_eq!((copy.to_upstream.is_large(), copy.shrink_at, copy.idle_at), (false, None, None));
}

/// Gives pieces, and keeps those that it is given, each as it lies in memory.
#[derive(Default)]
struct Shelf {
    gives: Vec<Bytes>,
    kept: Vec<Bytes>,
    room: usize,
}

impl AsyncRead for Shelf {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        panic!("read into a buffer")
    }
}

impl AsyncWrite for Shelf {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        panic!("written from a buffer")
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Pieces for Shelf {
    fn poll_piece(&mut self, _: &mut Context<'_>) -> Option<Poll<io::Result<Bytes>>> {
        Some(Poll::Ready(Ok(self.gives.pop().unwrap_or_default())))
    }

    fn poll_write_piece(&mut self, _: &mut Context<'_>, piece: &mut Bytes) -> Poll<io::Result<usize>> {
        let n = piece.len().min(self.room);
        self.kept.push(piece.split_to(n));
        Poll::Ready(Ok(n))
    }
}

#[tokio::test]
async fn pieces_are_handed_on_as_they_lie_in_memory() {
    let piece = Bytes::from(vec![7; 10]);
    let mut from = Shelf { gives: vec![piece.clone()], ..Shelf::default() };
    let mut to = Shelf { room: 6, ..Shelf::default() };
    let copied = bidirectional(&mut from, &mut to, None, |_, _| {}).await;
    assert!(matches!(copied.end, End::Complete));
    let places: Vec<_> = to.kept.iter().map(|kept| (kept.as_ptr(), kept.len())).collect();
    assert_eq!((copied.to_upstream, places), (10, vec![(piece.as_ptr(), 6), (piece[6..].as_ptr(), 4)]));
}
