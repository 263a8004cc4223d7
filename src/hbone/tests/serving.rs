//! What a server bounds: idle tunnels, and streams that are reset.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_tunnel_without_a_first_connect_is_told_to_go() {
    let config = Config { first_connect_timeout: Duration::from_secs(3), ..Config::default() };
    let held = held(config).await;
    let started = tokio::time::Instant::now();
    held.end.await.unwrap().unwrap();
    assert_eq!(started.elapsed().as_secs(), 3);
    held.client.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_idle_from_the_end_of_its_last_stream() {
    let config = Config { first_connect_timeout: Duration::from_secs(30), idle_timeout: Duration::from_secs(100), ..Config::default() };
    let mut held = held(config).await;
    let mut last = tokio::time::Instant::now();
    // A tunnel in use, but idle at every moment at which somebody might look.
    for seconds in [29, 50, 99] {
        let (response, _stream) = held.connect().await;
        held.connects.recv().await.unwrap().refuse(StatusCode::NOT_FOUND);
        assert_eq!(response.await.unwrap().status(), StatusCode::NOT_FOUND);
        last = tokio::time::Instant::now();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert!(!held.end.is_finished(), "closed {seconds} s after its last stream");
    }
    held.end.await.unwrap().unwrap();
    assert_eq!(last.elapsed().as_secs(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_with_a_stream_is_never_idle() {
    let config = Config { idle_timeout: Duration::from_secs(10), ..Config::default() };
    let mut held = held(config).await;
    let (response, _stream) = held.connect().await;
    let io = held.connects.recv().await.unwrap().accept(None).unwrap();
    response.await.unwrap();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(!held.end.is_finished());
    drop(io);
    held.end.await.unwrap().unwrap();
}

#[tokio::test]
async fn streams_that_were_reset_but_are_still_being_served_are_bounded() {
    let config = Config { max_concurrent_streams: 10, ..Config::default() };
    let mut held = held(config).await;
    let mut refused = 0;
    let mut serving = Vec::new();
    for _ in 0..100 {
        let (response, mut stream) = held.connect().await;
        tokio::select! {
            connect = held.connects.recv() => {
                serving.push(connect.unwrap());
                stream.send_reset(Reason::CANCEL);
            }
            answer = response => {
                assert_eq!(answer.unwrap_err().reason(), Some(Reason::REFUSED_STREAM));
                refused += 1;
            }
        }
    }
    assert_eq!((serving.len(), refused), (20, 80));
    for connect in &mut serving {
        soon("the reset is seen", connect.broken_off()).await;
    }
    drop(serving);
    let (response, _stream) = held.connect().await;
    held.connects.recv().await.unwrap().refuse(StatusCode::NOT_FOUND);
    assert_eq!(soon("answer", response).await.unwrap().status(), StatusCode::NOT_FOUND, "places are free again");
}
