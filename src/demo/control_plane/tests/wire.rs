//! What goes wrong on request.

use super::*;

#[tokio::test]
async fn answers_of_a_type_are_held_back() {
    let plane = plane().await;
    plane.apply([upsert(service("s", "10.0.0.1"))]);
    plane.faults().hold(Kind::Address);
    let mut client = Client::connect(&plane).await.unwrap();
    client.say(request(Kind::Address));
    assert_eq!(client.ask(request(Kind::Authorization)).await.type_url, Kind::Authorization.url(), "the other type passes");
    plane.faults().release(Kind::Address);
    assert_eq!(client.next().await.unwrap().type_url, Kind::Address.url());
}

#[tokio::test]
async fn streams_end_with_a_status_and_connections_without_a_word() {
    let plane = plane().await;
    let channel = channel(&plane).await;
    let mut client = Client::over(channel.clone(), TOKEN).await.unwrap();
    client.ask(request(Kind::Address)).await;
    plane.end_streams(&Status::resource_exhausted("enough"));
    let status = client.next().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "enough"));
    let mut client = Client::over(channel, TOKEN).await.unwrap();
    client.ask(request(Kind::Address)).await;
    assert_eq!(plane.observed().connections, 1, "the connection stays");
    plane.drop_connections();
    client.next().await.unwrap_err();
    soon(plane.wait_for(|o| o.open_streams == 0)).await;
}

#[tokio::test]
async fn messages_end_in_the_middle_once() {
    let plane = plane().await;
    plane.apply((0..100).map(|n| upsert(workload(&format!("w{n}"), &format!("10.1.0.{n}"), &[]))));
    let mut client = Client::connect(&plane).await.unwrap();
    plane.faults().truncate_after(2000);
    client.say(request(Kind::Address));
    client.next().await.unwrap_err();
    assert!(!plane.faults().is_to_truncate());
    let mut client = Client::connect(&plane).await.unwrap();
    assert_eq!(client.ask(request(Kind::Address)).await.resources.len(), 100);
}

#[tokio::test]
async fn small_pieces_make_a_whole() {
    let plane = plane().await;
    plane.apply((0..20).map(|n| upsert(workload(&format!("w{n}"), &format!("10.1.0.{n}"), &[]))));
    let mut client = Client::connect(&plane).await.unwrap();
    plane.faults().slow(Some((100, Duration::from_millis(1))));
    assert_eq!(client.ask(request(Kind::Address)).await.resources.len(), 20);
}

#[tokio::test]
async fn it_goes_and_comes_back() {
    let plane = plane().await;
    let mut client = Client::connect(&plane).await.unwrap();
    client.ask(request(Kind::Address)).await;
    soon(plane.stop()).await;
    client.next().await.unwrap_err();
    assert!(tokio::net::TcpStream::connect(plane.address()).await.is_err());
    soon(plane.resume()).await;
    let mut client = Client::connect(&plane).await.unwrap();
    client.ask(request(Kind::Address)).await;
}
