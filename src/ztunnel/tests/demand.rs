use super::{
    fixture::{Built, Hop, NAMESPACE, gateway_pod, pod, service, uid},
    stand::{Place, Running, Stand, echo, says_back, socks, within},
};
use crate::{
    control::xds::Answers,
    model::{GatewayAddress, GatewayDestination, Hostname, LoadBalancingMode, NetworkAddress, Resource, ServiceKey, WaypointBinding},
    telemetry::ResponseFlag,
};
use std::net::IpAddr;
use tokio::{net::TcpStream, task::JoinHandle};

const VIP: &str = "198.51.100.1";

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: NAMESPACE.into(), hostname: Hostname::of_service(name, NAMESPACE, "cluster.local") }
}

/// The waypoint `wp`, by the name of its service.
fn by_name() -> GatewayAddress {
    GatewayAddress { destination: GatewayDestination::Hostname(key("wp")), port: 15008 }
}

fn by_address(ip: IpAddr) -> GatewayAddress {
    GatewayAddress { destination: GatewayDestination::Address(NetworkAddress { network: None, address: ip }), port: 15008 }
}

fn behind(built: Built, place: GatewayAddress) -> Built {
    if matches!(built.0, Resource::Service(_)) {
        built.service(|service| service.waypoint = WaypointBinding::At(place))
    } else {
        built.workload(|workload| workload.waypoint = WaypointBinding::At(place))
    }
}

/// A client whose control plane is this test; what it asks for of itself is answered.
struct Asking {
    stand: Stand,
    client: Running,
    answers: Answers,
}

impl Asking {
    async fn start() -> Self {
        let (mut stand, place) = (Stand::new(), Place::new());
        let (demand, answers) = Answers::new();
        let own = pod("client", &place.text(), Hop::Hbone);
        let client = stand.start_asking("client", place, demand).await;
        assert_eq!(answers.asked().await, [uid("client")], "nobody else would have it told of");
        stand.apply([own]);
        answers.answer(&uid("client"), true);
        Self { stand, client, answers }
    }

    fn connect(&self, host: &str, port: u16) -> JoinHandle<Result<TcpStream, u8>> {
        let (proxy, host) = (self.client.socks5, host.to_owned());
        tokio::spawn(async move { socks(proxy, &host, port).await })
    }

    /// The next that is asked for must be this; what it is comes with the answer.
    async fn tell(&mut self, what: &str, name: &str, found: Vec<Built>) {
        assert_eq!(self.answers.asked().await, [name.into()], "{what}");
        let is_found = !found.is_empty();
        self.stand.apply(found);
        self.answers.answer(name, is_found);
    }
}

#[tokio::test]
async fn a_service_a_pod_and_what_nobody_knows_are_asked_for_once() {
    within(async {
        let mut asking = Asking::start().await;
        let (server, outside) = (Place::new(), Place::new());
        let (ip, port) = (server.text(), echo(server.ip).await);
        let (outside_ip, outside_port) = (outside.text(), echo(outside.ip).await);
        let known = pod("server", &ip, Hop::Hbone);
        let _server = {
            asking.stand.apply([known.clone()]);
            let running = asking.stand.start("server", server).await;
            asking.stand.remove(known.clone());
            running
        };
        let rows = [
            ("a pod", ip.as_str(), port, vec![known.clone()], format!("{ip}:15008")),
            ("a service", VIP, 80, vec![known, service("server", VIP, &[(80, port)])], format!("{ip}:15008")),
            ("nobody knows it", outside_ip.as_str(), outside_port, Vec::new(), format!("{outside_ip}:{outside_port}")),
        ];
        for (what, host, port, found, reached) in rows {
            let connecting = asking.connect(host, port);
            asking.tell(what, &format!("/{host}"), found).await;
            let mut stream = connecting.await.unwrap().unwrap_or_else(|code| panic!("{what}: {code}"));
            says_back(&mut stream, "hello").await;
            drop(stream);
            assert_eq!(asking.client.record().await.destination.addr.to_string(), reached, "{what}");
            // Known now, and not asked for again.
            let mut stream = asking.connect(host, port).await.unwrap().unwrap();
            says_back(&mut stream, "hello").await;
            drop(stream);
            assert_eq!(asking.client.record().await.destination.addr.to_string(), reached, "{what}, again");
        }
    })
    .await;
}

#[tokio::test]
async fn a_waypoint_is_asked_for_before_anything_goes() {
    for what in ["a service, by name", "a service, by address", "a pod, by name"] {
        within(async {
            let mut asking = Asking::start().await;
            let (server, instance) = (Place::new(), Place::new());
            let (ip, port, instance_ip) = (server.text(), echo(server.ip).await, instance.text());
            let place = if what.ends_with("address") { by_address(instance.ip) } else { by_name() };
            let mut told = asking.stand.waypoint("wp", instance);
            let (pods, host, port, name) = match what {
                "a pod, by name" => (vec![behind(pod("server", &ip, Hop::Plain), place)], ip.as_str(), port, format!("/{ip}")),
                _ => {
                    let found = vec![pod("server", &ip, Hop::Plain), behind(service("server", VIP, &[(80, port)]), place)];
                    (found, VIP, 80, format!("/{VIP}"))
                }
            };
            let connecting = asking.connect(host, port);
            asking.tell(what, &name, pods).await;
            let wp = [gateway_pod("wp", &instance_ip, "wp"), service("wp", "198.51.100.2", &[(15008, 15008)])];
            match what {
                "a service, by address" => asking.tell(what, &format!("/{instance_ip}"), wp[..1].to_vec()).await,
                _ => asking.tell(what, &key("wp").to_string(), wp.to_vec()).await,
            }
            let mut stream = connecting.await.unwrap().unwrap_or_else(|code| panic!("{what}: {code}"));
            says_back(&mut stream, "hello").await;
            assert_eq!(told.recv().await.as_deref(), Some(format!("{host}:{port}").as_str()), "{what}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_waypoint_that_nobody_knows_is_not_gone_around() {
    within(async {
        let mut asking = Asking::start().await;
        let ip = Place::new().text();
        let connecting = asking.connect(VIP, 80);
        let found = vec![pod("server", &ip, Hop::Plain), behind(service("server", VIP, &[(80, 8080)]), by_name())];
        asking.tell("the service", &format!("/{VIP}"), found).await;
        asking.tell("its waypoint", &key("wp").to_string(), Vec::new()).await;
        assert!(connecting.await.unwrap().is_err());
        let record = asking.client.record().await;
        assert_eq!((record.flag, record.error.as_deref()), (ResponseFlag::Connect, Some("no healthy waypoint")));
    })
    .await;
}

#[tokio::test]
async fn what_has_an_address_of_its_own_inside_of_a_range_is_asked_for() {
    within(async {
        let mut asking = Asking::start().await;
        let (server, instance) = (Place::new(), Place::new());
        let (ip, port, instance_ip) = (server.text(), echo(server.ip).await, instance.text());
        let mut told = asking.stand.waypoint("wp", instance);
        // Known from a connection to somewhere else in it.
        asking.stand.apply([service("range", "", &[]).service(|service| {
            service.l4.ranges = vec!["127.0.0.0/8".parse().unwrap()];
            service.l4.load_balancing.mode = LoadBalancingMode::Passthrough;
        })]);
        let connecting = asking.connect(&ip, port);
        asking.tell("the address", &format!("/{ip}"), vec![behind(pod("server", &ip, Hop::Plain), by_name())]).await;
        let wp = vec![gateway_pod("wp", &instance_ip, "wp"), service("wp", "198.51.100.2", &[(15008, 15008)])];
        asking.tell("its waypoint", &key("wp").to_string(), wp).await;
        let mut stream = connecting.await.unwrap().unwrap();
        says_back(&mut stream, "hello").await;
        assert_eq!(told.recv().await.as_deref(), Some(format!("{ip}:{port}").as_str()));
    })
    .await;
}

#[tokio::test]
async fn a_connection_waits_for_the_answer_also_while_nobody_is_there_to_give_it() {
    within(async {
        let mut asking = Asking::start().await;
        let outside = Place::new();
        let (ip, port) = (outside.text(), echo(outside.ip).await);
        let waiting = [asking.connect(&ip, port), asking.connect(&ip, port)];
        let name = format!("/{ip}");
        assert_eq!(asking.answers.asked().await, [name.as_str().into()], "both with one question");
        asking.answers.cut();
        // A pod that is known is reached meanwhile: the proxy has had its time.
        asking.stand.apply([pod("legacy", "127.0.0.1", Hop::Plain)]);
        let localhost = echo("127.0.0.1".parse().unwrap()).await;
        let mut stream = asking.connect("127.0.0.1", localhost).await.unwrap().unwrap();
        says_back(&mut stream, "hello").await;
        assert!(waiting.iter().all(|connecting| !connecting.is_finished()));
        asking.answers.answer(&name, false);
        for connecting in waiting {
            says_back(&mut connecting.await.unwrap().unwrap(), "hello").await;
        }
    })
    .await;
}

#[tokio::test]
async fn where_a_name_leads_is_asked_for_before_anybody_goes_there() {
    within(async {
        let mut asking = Asking::start().await;
        let port = echo("127.0.0.1".parse().unwrap()).await;
        let connecting = asking.connect(VIP, 80);
        let named = pod("outside", "127.0.0.1", Hop::Plain).workload(|workload| {
            workload.addresses.clear();
            workload.l4.hostname = Some(Hostname::new("localhost"));
        });
        asking.tell("the service", &format!("/{VIP}"), vec![named, service("outside", VIP, &[(80, port)])]).await;
        let inside = behind(pod("inside", "127.0.0.1", Hop::Plain), by_name());
        asking.tell("where the name leads", "/127.0.0.1", vec![inside]).await;
        asking.tell("its waypoint", &key("wp").to_string(), Vec::new()).await;
        assert!(connecting.await.unwrap().is_err());
        let error = asking.client.record().await.error.unwrap_or_default();
        assert!(error.contains("past a tunnel or a waypoint"), "{error}");
    })
    .await;
}

/// The status of a CONNECT.
async fn status(send: &mut h2::client::SendRequest<bytes::Bytes>, authority: &str) -> u16 {
    let request = http::Request::builder().method(http::Method::CONNECT).uri(authority).body(()).unwrap();
    let (response, _body) = send.send_request(request, false).unwrap();
    response.await.unwrap().status().as_u16()
}

#[tokio::test]
async fn the_service_that_a_peer_names_is_waited_for_a_while_and_who_it_is_not_at_all() {
    within(async {
        let (mut stand, server) = (Stand::new(), Place::new());
        let (ip, port) = (server.text(), echo(server.ip).await);
        let (demand, answers) = Answers::new();
        // The service is of another namespace: only the workload itself says which.
        let other = ServiceKey { namespace: "other".into(), hostname: Hostname::new("web.other.example") };
        let own = pod("server", &ip, Hop::Hbone).workload(|w| w.l4.services = vec![(other.clone(), vec![(80, port)])]);
        stand.apply([own]);
        let server_ip = server.ip;
        let _server = stand.start_asking("server", server, demand).await;
        assert_eq!(answers.asked().await, [uid("server")]);
        answers.answer(&uid("server"), true);
        let mut send = stand.tunnel("client", server_ip, "server").await;
        let waits = async {
            let mut asked = answers.asked().await;
            if asked.len() < 2 {
                asked.extend(answers.asked().await);
            }
            // Whoever comes from loopback is at an address of the machine; nobody waits for who it is.
            assert_eq!(asked.len(), 2, "{asked:?}");
            assert_eq!(*asked[1], other.to_string(), "by the key that the workload has");
            stand.apply([service("web", "", &[(80, port)]).service(|service| {
                service.key = other.clone();
                service.selector = None;
            })]);
            answers.answer(&other.to_string(), true);
        };
        let (code, ()) = tokio::join!(status(&mut send, "web.other.example:80"), waits);
        assert_eq!(code, 200);
        // A host that nobody answers for.
        let begun = tokio::time::Instant::now();
        let mut send = send.clone().ready().await.unwrap();
        assert_eq!(status(&mut send, "nowhere.example:80").await, 503);
        assert!(begun.elapsed() >= std::time::Duration::from_secs(1), "{:?}", begun.elapsed());
    })
    .await;
}
