//! The bytes of a stream: each direction, resets, windows.

use super::*;

/// A stream over memory, seen from both of its ends.
async fn pair(config: Config) -> (TunnelIo, TunnelIo, JoinSet<()>) {
    let (near, far) = duplex(64 << 10);
    let (sender, mut receiver) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    let server = config.clone();
    tasks.spawn(async move {
        let (_trigger, watch) = drain::new();
        let _ = serve(far, &server, watch, pending(), &tls::Standing::default(), |connect| {
            sender.try_send(connect.accept(None).unwrap()).unwrap()
        })
        .await;
    });
    let client = Client::handshake(near, &config, pending(), tls::Standing::default()).await.unwrap();
    let connect = client.reserve();
    let headers = ConnectHeaders::default();
    let (theirs, ours) = soon("stream", async { tokio::join!(receiver.recv(), connect.connect(ECHO, &headers, &config)) }).await;
    (ours.unwrap().0, theirs.unwrap(), tasks)
}

#[tokio::test]
async fn each_direction_ends_on_its_own() {
    let (mut near, mut far, _tasks) = pair(Config::default()).await;
    near.write_all(b"first").await.unwrap();
    near.shutdown().await.unwrap();
    let mut read = String::new();
    soon("end", far.read_to_string(&mut read)).await.unwrap();
    assert_eq!(read, "first");
    far.write_all(b"still open").await.unwrap();
    far.shutdown().await.unwrap();
    read.clear();
    soon("end", near.read_to_string(&mut read)).await.unwrap();
    assert_eq!(read, "still open");
    let (mut client, mut server, _tasks) = pair(Config::default()).await;
    server.shutdown().await.unwrap();
    assert_eq!(soon("end", client.read(&mut [0; 8])).await.unwrap(), 0);
    client.write_all(b"after").await.unwrap();
    let mut read = [0; 5];
    soon("data", server.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"after");
}

#[tokio::test]
async fn a_reset_is_an_error_and_a_cancel_is_an_end() {
    for (reason, want) in [
        (Some(Reason::CONNECT_ERROR), Err(std::io::ErrorKind::ConnectionReset)),
        (Some(Reason::INTERNAL_ERROR), Err(std::io::ErrorKind::ConnectionReset)),
        (Some(Reason::STREAM_CLOSED), Err(std::io::ErrorKind::BrokenPipe)),
        (Some(Reason::CANCEL), Ok(0)),
        (Some(Reason::NO_ERROR), Ok(0)),
        (None, Ok(0)),
    ] {
        let (mut client, mut server, _tasks) = pair(Config::default()).await;
        match reason {
            Some(reason) => server.reset(reason),
            None => drop(server),
        }
        let read = soon("end", client.read(&mut [0; 8])).await.map_err(|e| e.kind());
        assert_eq!(read, want, "{reason:?}");
        let written = client.write_all(b"x").await;
        assert!(written.is_err(), "{reason:?}: nobody reads");
    }
}

#[tokio::test]
async fn the_peer_gone_is_an_error_for_the_reader() {
    let (mut client, server, mut tasks) = pair(Config::default()).await;
    tasks.shutdown().await;
    assert!(soon("end", client.read(&mut [0; 8])).await.is_err());
    drop(server);
}

async fn send(mut to: impl AsyncWrite + Unpin, total: usize) {
    let chunk: Vec<u8> = (0..65_521u32).map(|n| n as u8).collect();
    let mut left = total;
    while left > 0 {
        let n = left.min(chunk.len());
        to.write_all(&chunk[..n]).await.unwrap();
        left -= n;
    }
    to.shutdown().await.unwrap();
}

async fn receive(mut from: impl AsyncRead + Unpin) -> usize {
    let (mut total, mut buf) = (0, vec![0; 100_000]);
    loop {
        let n = from.read(&mut buf).await.unwrap();
        if n == 0 {
            return total;
        }
        // Position by position, against what `send` wrote.
        assert!((0..n).step_by(997).all(|i| buf[i] == ((total + i) % 65_521) as u8), "bytes are in order");
        total += n;
    }
}

#[tokio::test]
async fn sixty_four_mebibytes_pass_both_ways_at_once_through_small_windows() {
    const TOTAL: usize = 64 << 20;
    let config = Config { stream_window: 256 << 10, connection_window: 512 << 10, max_frame_size: 16 << 10, ..Config::default() };
    let (client, server, _tasks) = pair(config).await;
    let ((client_read, client_write), (server_read, server_write)) = (tokio::io::split(client), tokio::io::split(server));
    let all = async { tokio::join!(send(client_write, TOTAL), send(server_write, TOTAL), receive(client_read), receive(server_read)) };
    let ((), (), down, up) = tokio::time::timeout(Duration::from_secs(120), all).await.expect("no deadlock");
    assert_eq!((down, up), (TOTAL, TOTAL));
}

#[tokio::test]
async fn a_writer_waits_for_a_reader_that_does_not_read() {
    let config = Config { stream_window: 64 << 10, ..Config::default() };
    let (mut client, mut server, _tasks) = pair(config.clone()).await;
    let mut sent = 0;
    let chunk = vec![7; 32 << 10];
    // Pending for long means that it waits: what was taken must then be bounded by the windows and the send buffer.
    while let Ok(n) = tokio::time::timeout(Duration::from_millis(200), client.write(&chunk)).await {
        sent += n.unwrap();
        assert!(sent <= config.stream_window as usize + config.client_send_buffer, "{sent} bytes without a reader");
    }
    client.shutdown().await.unwrap();
    let mut read = Vec::new();
    soon("rest", server.read_to_end(&mut read)).await.unwrap();
    assert_eq!(read.len(), sent);
}
