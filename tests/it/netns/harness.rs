//! The harness itself: what the other tests take for granted.

use super::*;
use crate::support::{
    Cni, Peer, Tunnel,
    apps::Load,
    world::{Pod, Spec, identity},
};
use cairn::transport::{
    self, Sockets,
    listener::{self, Accepted, ListenOptions},
    socket::{self, ConnectOptions},
    sockets::SocketOptions,
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg,
};
use std::{io::IoSliceMut, mem::MaybeUninit, net::Ipv6Addr, os::fd::OwnedFd, path::PathBuf, time::Duration};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_each_other_without_a_mesh() {
    let Some(mut world) = World::new() else { return };
    let pods = [("a", 1), ("b", 1), ("c", 2)].map(|(name, node)| world.pod(Spec::plain(name, node)));
    let apps = pods.each_ref().map(Apps::start);
    for from in &pods {
        for (to, app) in pods.iter().zip(&apps) {
            for family in FAMILIES {
                let what = format!("{} to {} by {family:?}", from.name, to.name);
                let stream = from.connect(to.addr(family, ECHO)).await.unwrap_or_else(|e| panic!("{what}: {e}"));
                echo(stream, &pattern(10_000)).await.unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(app.last_peer(ECHO), Some(from.ip(family)), "{what}");
            }
        }
    }
    let node = world.node(1);
    shapes::every_shape("nobody between", &node, &pods[2], &apps[2]).await;
    let load = Load::start(&pods[0], pods[2].at(ECHO), 2);
    load.more(20).await;
    assert_eq!(load.stop().await, [""; 0]);
    let _upstream = names::upstream(&pods[2]);
    for (name, code, addresses) in [("outside.example", 0, 1), ("nowhere.example", 3, 0)] {
        let answer = names::by_udp(&pods[0], pods[2].at(53), name, names::A).await;
        assert_eq!((answer.code, answer.addresses.len()), (code, addresses), "{name}");
    }
    world.certs(&[]);
    let (cert, own) = (world.cert("a"), world.cert("c"));
    let _peer = pods[2].netns.enter(|| Peer::start(pods[2].at(15008), Arc::new(own)));
    let tunnel = Tunnel::open(&pods[0], pods[2].at(15008), &cert, &identity("c")).await.unwrap();
    let counted = tunnel.connect(&format!("127.0.0.1:{ECHO}")).await.map(drop);
    assert_eq!(counted, Err("503".into()), "the peer is not inside of the pod, and says so");
    assert!(Tunnel::open(&pods[0], pods[2].at(15008), &cert, &identity("b")).await.is_err(), "who is not expected");
    let foreign = hostile::foreign(&world, "elsewhere.example");
    let refused = Tunnel::open(&pods[0], pods[2].at(15008), &foreign, &identity("c")).await;
    assert!(match refused {
        Ok(tunnel) => tunnel.connect("x:1").await.is_err_and(|e| e.parse::<u16>().is_err()),
        Err(_) => true,
    });
}

/// What a ztunnel does to plaintext, without its judgement: connects to where the application
/// wanted to, with the mark, and inbound from the client's address.
fn stand_in(pod: &Pod) -> JoinSet<()> {
    let netns = Arc::new(transport::Netns::new(pod.netns.handle()).unwrap());
    let sockets = Sockets::new(SocketOptions { mark: Some(1337), ..SocketOptions::default() }).inside(netns);
    let mut tasks = JoinSet::new();
    for (port, is_inbound) in [(15006, true), (15001, false)] {
        let options = ListenOptions { transparent: true, ..ListenOptions::default() };
        let listener = sockets.listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), options).unwrap();
        let sockets = sockets.clone();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let Accepted { mut stream, peer, .. } = listener::accept(&listener).await;
                let to = socket::original_dst(&stream).unwrap().0;
                let source = is_inbound.then_some(peer.ip());
                let sockets = sockets.clone();
                open.spawn(async move {
                    let options = ConnectOptions { source, ..ConnectOptions::new(Duration::from_secs(5)) };
                    let Ok(mut upstream) = sockets.connect(to, options).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
                });
            }
        });
    }
    tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn redirection_catches_what_is_not_marked_and_lets_a_proxy_speak_for_the_client() {
    let Some(mut world) = World::new() else { return };
    let (near, far) = (world.pod(Spec::captured("near", 1)), world.pod(Spec::captured("far", 2)));
    let (beside, plain) = (world.pod(Spec::captured("beside", 1)), world.pod(Spec::plain("plain", 2)));
    let pods = [&near, &far, &beside, &plain];
    let apps = pods.map(Apps::start);
    for family in FAMILIES {
        // Nobody listens where it leads to.
        assert!(near.connect(plain.addr(family, ECHO)).await.is_err(), "what a pod opens, {family:?}");
        assert!(plain.connect(near.addr(family, ECHO)).await.is_err(), "what comes to a pod, {family:?}");
        assert!(near.connect(near.addr(family, ECHO)).await.is_ok(), "a pod and its own address, {family:?}");
        let _hbone = near.netns.enter(|| std::net::TcpListener::bind(near.addr(family, 15008))).unwrap();
        assert!(plain.connect(near.addr(family, 15008)).await.is_ok(), "HBONE is let in, {family:?}");
    }
    let proxies = [&near, &far, &beside].map(stand_in);
    for from in pods {
        for (to, app) in pods.iter().zip(&apps) {
            for family in FAMILIES {
                let what = format!("{} to {} by {family:?}", from.name, to.name);
                let stream = from.connect(to.addr(family, ECHO)).await.unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(stream.peer_addr().unwrap(), to.addr(family, ECHO), "the application does not notice, {family:?}");
                echo(stream, &pattern(10_000)).await.unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(app.last_peer(ECHO), Some(from.ip(family)), "{what}");
            }
        }
    }
    drop(proxies);
}

/// The ztunnel's side of ZDS, as small as can be.
struct Zds(OwnedFd);

impl Zds {
    fn connect(path: PathBuf) -> Self {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        let zds = Self(socket);
        zds.send(&[0x08, 0x01]);
        zds
    }

    fn send(&self, packet: &[u8]) {
        rustix::net::send(&self.0, packet, SendFlags::empty()).unwrap();
    }

    fn next(&self) -> (Vec<u8>, Option<OwnedFd>) {
        let (mut buf, mut space) = (vec![0; 1024], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(&self.0, &mut [IoSliceMut::new(&mut buf)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        buf.truncate(got.bytes);
        let fds =
            control.drain().find_map(|message| if let RecvAncillaryMessage::ScmRights(mut fds) = message { fds.next() } else { None });
        (buf, fds)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cni_speaks_zds() {
    let Some(mut world) = World::new() else { return };
    let (a, b) = (world.pod(Spec::captured("a", 1)), world.pod(Spec::captured("b", 1)));
    let cni = Arc::new(Cni::listen(&world.dir.path().join("zds")));
    cni.list(&a);
    let path = cni.path().to_owned();
    let (told, telling) = (cni.clone(), b.clone());
    tokio::task::spawn_blocking(move || {
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        let zds = Zds::connect(path);
        let (add, netns) = zds.next();
        assert_eq!(add, b"\x0a\x14\x0a\x05uid-a\x12\x0b\x0a\x01a\x12\x03app\x1a\x01a");
        assert_eq!(inode(&netns.expect("a namespace comes with it")), inode(&a.netns.handle()));
        zds.send(&[0x0a, 0x00]);
        assert_eq!(zds.next().0, [0x1a, 0x00], "the end of the snapshot");
        zds.send(&[0x0a, 0x00]);
        let adding = std::thread::spawn({
            let (told, telling) = (told.clone(), telling.clone());
            move || {
                while told.snapshots() == 0 {
                    std::thread::yield_now();
                }
                told.add(&telling)
            }
        });
        assert!(zds.next().1.is_some());
        zds.send(b"\x0a\x05\x0a\x03sad");
        assert_eq!(adding.join().unwrap(), Err("refused: sad".into()));
        let deleting = std::thread::spawn(move || told.del("uid-a"));
        let (gone, none) = zds.next();
        assert_eq!((&gone[..], none.is_none()), (&b"\x12\x07\x12\x05uid-a"[..], true));
        zds.send(&[0x0a, 0x00]);
        assert_eq!(deleting.join().unwrap(), Ok(()));
    })
    .await
    .unwrap();
    assert_eq!(cni.complaints(), [""; 0]);
}
