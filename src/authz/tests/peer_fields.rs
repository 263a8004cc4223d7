//! Fields about the connection: source, destination, server name.

use super::*;

#[test]
fn principals_are_compared_without_the_scheme_and_with_regard_to_case() {
    for (pattern, holds) in [
        ("td/ns/foo/sa/client", true),
        ("td/ns/foo/sa/clien", false),
        ("TD/ns/foo/sa/client", false),
        ("spiffe://td/ns/foo/sa/client", false),
        ("td/ns/foo/*", true),
        ("td/ns/fo*", true),
        ("td/ns/bar/*", false),
        ("*/sa/client", true),
        ("*/sa/other", false),
        ("*", true),
        ("", false),
    ] {
        assert_term(principal(pattern), &facts(), holds);
    }
    assert_term(Test::Principal(texts(&["x", "td/ns/foo/sa/client"])), &facts(), true);
}

#[test]
fn namespaces_take_a_star_anywhere_and_are_anchored() {
    for (pattern, holds) in [
        ("foo", true),
        ("fo", false),
        ("oo", false),
        ("Foo", false),
        ("f.o", false),
        ("*", true),
        ("f*", true),
        ("*o", true),
        ("f*o", true),
        ("*o*", true),
        ("f**o", true),
        ("fo*o", true),
        ("foo*", true),
        ("*foo", true),
        ("foo*foo", false),
        ("f*x", false),
        ("", false),
    ] {
        assert_term(namespace(pattern), &facts(), holds);
    }
    let long = facts().peer(Some(("td", "team-a-prod-eu", "x")));
    for (pattern, holds) in [("team-*-prod-*", true), ("*-a-*-eu", true), ("*-eu-*", false), ("team-*-a-*-prod-eu", false)] {
        assert_term(namespace(pattern), &long, holds);
    }
}

#[test]
fn service_accounts_are_namespace_and_name_in_any_trust_domain() {
    let account = |namespace: &str, name: &str| Test::ServiceAccount(vec![ResourceName::new(namespace, name)]);
    assert_term(account("foo", "client"), &facts(), true);
    assert_term(account("foo", "client"), &facts().peer(Some(("other", "foo", "client"))), true);
    assert_term(account("foo", "other"), &facts(), false);
    assert_term(account("bar", "client"), &facts(), false);
}

#[test]
fn trust_domains_are_exact_prefix_or_suffix() {
    let facts = facts().peer(Some(("a.example", "foo", "client")));
    for (pattern, holds) in [("a.example", true), ("a.*", true), ("*.example", true), ("*", true), ("example", false), ("A.example", false)]
    {
        assert_term(Test::TrustDomain(texts(&[pattern])), &facts, holds);
    }
}

#[test]
fn without_identity_source_fields_are_false_and_their_not_fields_true() {
    let plain = facts().peer(None);
    for test in [
        principal("*"),
        principal("td/*"),
        principal(""),
        namespace("*"),
        namespace("foo"),
        Test::ServiceAccount(vec![ResourceName::new("foo", "client")]),
        Test::TrustDomain(texts(&["*"])),
    ] {
        assert_term(test, &plain, false);
    }
}

#[test]
fn addresses_match_single_or_by_network() {
    for (net, holds) in [
        ("10.0.0.1/32", true),
        ("10.0.0.2/32", false),
        ("10.0.0.0/8", true),
        ("11.0.0.0/8", false),
        ("0.0.0.0/0", true),
        ("::/0", false),
        ("::ffff:10.0.0.0/104", true),
        ("::ffff:11.0.0.0/104", false),
        ("::ffff:10.0.0.1/128", true),
        ("::ffff:10.0.0.0/128", false),
    ] {
        let nets = vec![net.parse().unwrap()];
        for source in ["10.0.0.1", "::ffff:10.0.0.1"] {
            let mut facts = facts();
            facts.source = ip(source);
            facts.remote = ip(source);
            facts.destination = SocketAddr::new(ip(source), 80);
            assert_term(Test::SourceIp(nets.clone()), &facts, holds);
            assert_term(Test::RemoteIp(nets.clone()), &facts, holds);
            assert_term(Test::DestinationIp(nets.clone()), &facts, holds);
        }
    }
    let mut six = facts();
    six.source = ip("fd00::1");
    for (net, holds) in [("fd00::/8", true), ("fd00::1/128", true), ("fd00::2/128", false), ("0.0.0.0/0", false)] {
        assert_term(Test::SourceIp(vec![net.parse().unwrap()]), &six, holds);
    }
}

#[test]
fn source_remote_and_destination_address_are_three_different_things() {
    let net = |text: &str| vec![text.parse().unwrap()];
    for (net, of) in [(net("10.0.0.1/32"), 0), (net("203.0.113.7/32"), 1), (net("10.9.0.1/32"), 2)] {
        assert_term(Test::SourceIp(net.clone()), &facts(), of == 0);
        assert_term(Test::RemoteIp(net.clone()), &facts(), of == 1);
        assert_term(Test::DestinationIp(net), &facts(), of == 2);
    }
}

#[test]
fn ports_are_those_of_the_destination() {
    assert_term(ports(&[80]), &facts(), true);
    assert_term(ports(&[443, 80]), &facts(), true);
    assert_term(ports(&[8080]), &facts(), false);
    assert_term(ports(&[]), &facts(), false);
}

#[test]
fn a_server_name_is_compared_without_case_and_is_empty_when_absent() {
    let mut named = facts();
    named.sni = Some("Shop.Example");
    for (pattern, with, without) in
        [("shop.example", true, false), ("shop.*", true, false), ("*.example", true, false), ("*", true, false), ("other", false, false)]
    {
        assert_term(Test::Sni(texts(&[pattern])), &named, with);
        assert_term(Test::Sni(texts(&[pattern])), &facts(), without);
    }
}

#[test]
fn a_server_name_that_cannot_be_told_refuses() {
    let sni = || Test::Sni(texts(&["secret.example"]));
    let unknown = Facts { sni: None, http: false, ..facts() };
    for negated in [false, true] {
        let rule = || when(Term { negated, test: sni() });
        assert!(!check(&[allow("a", vec![rule()])], Layer::WaypointTcp, &unknown).allowed, "ALLOW, negated: {negated}");
        assert!(!check(&[deny("d", vec![rule()])], Layer::WaypointTcp, &unknown).allowed, "DENY, negated: {negated}");
    }
    let none = Facts { sni: Some(""), http: false, ..facts() };
    assert!(check(&[deny("d", vec![when(is(sni()))])], Layer::WaypointTcp, &none).allowed, "no name is not that name");
}
