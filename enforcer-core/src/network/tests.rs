use super::*;

fn endpoint(net: Option<&str>, ports: &str, protocol: Option<Protocol>) -> Endpoint {
    Endpoint {
        net: net.map(|net| net.parse().unwrap()),
        ports: if ports == "*" { Ports::ALL } else { ports.parse().unwrap() },
        protocol,
    }
}

fn tcp(op: SocketOp, address: &str, port: u16) -> SocketAccess {
    let address: IpAddr = address.parse().unwrap();
    let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
    SocketAccess { op, family, kind: SOCK_STREAM, protocol: IPPROTO_TCP, address: Some(address), port }
}

#[test]
fn families_and_types_are_told_apart() {
    use Protocol::*;
    for (family, kind, protocol, kinds) in [
        (AF_INET, SOCK_STREAM, 0, vec![Tcp, Stream]),
        (AF_INET6, SOCK_STREAM, IPPROTO_TCP, vec![Tcp, Stream]),
        (AF_INET, SOCK_STREAM, IPPROTO_MPTCP, vec![Tcp, Stream]),
        (AF_SMC, SOCK_STREAM, 0, vec![Tcp, Stream]),
        (AF_SMC, SOCK_STREAM, 1, vec![Tcp, Stream]),
        (AF_UNIX, SOCK_STREAM, 0, vec![Stream]),
        (AF_UNIX, SOCK_DGRAM, 0, vec![Dgram]),
        (AF_UNIX, SOCK_SEQPACKET, 0, vec![Seqpacket]),
        (AF_INET, SOCK_DGRAM, 0, vec![Udp, Dgram]),
        (AF_INET6, SOCK_DGRAM, IPPROTO_UDP, vec![Udp, Dgram]),
        (AF_INET, SOCK_DGRAM, IPPROTO_ICMP, vec![Icmp, Dgram]),
        (AF_INET, SOCK_RAW, IPPROTO_ICMP, vec![Icmp, Raw]),
        (AF_INET6, SOCK_RAW, IPPROTO_ICMPV6, vec![Icmpv6, Raw]),
        (AF_INET6, SOCK_RAW, IPPROTO_ICMP, vec![Raw]),
        (AF_INET, SOCK_RAW, 255, vec![Raw]),
        (AF_INET, SOCK_STREAM, IPPROTO_SCTP, vec![Sctp, Stream]),
        (AF_INET6, SOCK_SEQPACKET, 0, vec![Sctp, Seqpacket]),
        (AF_INET, SOCK_DCCP, 0, vec![Dccp]),
        (AF_INET, SOCK_STREAM, IPPROTO_DCCP, vec![Dccp, Stream]),
        (AF_NETLINK, SOCK_RAW, 0, vec![Raw]),
        (AF_PACKET, SOCK_RAW, 0x0300, vec![Raw, Packet]),
        (AF_PACKET, SOCK_DGRAM, 0, vec![Dgram, Packet]),
        (AF_PACKET, SOCK_PACKET, 0, vec![Packet]),
        (30, SOCK_RDM, 0, vec![Rdm]),
    ] {
        let found: Vec<_> = Protocol::EACH
            .into_iter()
            .filter(|kind_of| kind_of.covers(family, kind, protocol) && *kind_of != All)
            .collect();
        assert_eq!(found, kinds, "{family} {kind} {protocol}");
        assert!(All.covers(family, kind, protocol));
    }
}

#[test]
fn networks() {
    let net: Cidr = "10.1.0.0/16".parse().unwrap();
    assert!(net.contains("10.1.255.255".parse().unwrap()) && !net.contains("10.2.0.0".parse().unwrap()));
    assert!(!net.contains("::10.1.0.0".parse().unwrap()), "not the mapped form");
    let all: Cidr = "0.0.0.0/0".parse().unwrap();
    assert!(all.contains("1.2.3.4".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
    let all: Cidr = "::/0".parse().unwrap();
    assert!(all.contains("fe80::1".parse().unwrap()) && !all.contains("::ffff:1.2.3.4".parse().unwrap()));
    assert_eq!("::ffff:10.0.0.0/104".parse::<Cidr>().unwrap().to_string(), "10.0.0.0/8");
    assert_eq!("::1".parse::<Cidr>().unwrap().to_string(), "::1/128");
    for bad in ["", "10.0.0.0/", "10.0.0.0/+8", "10.0.0/8", "x/8", "10.0.0.0/8/8", "10.0.0.0/256", "/8"] {
        assert_eq!(bad.parse::<Cidr>(), Err(CidrError::Shape), "{bad}");
    }
    assert_eq!("10.0.0.0/33".parse::<Cidr>(), Err(CidrError::Prefix { prefix: 33, longest: 32 }));
    assert_eq!("10.1.2.3/8".parse::<Cidr>(), Err(CidrError::Bits("10.0.0.0/8".parse().unwrap())));
}

#[test]
fn ports() {
    assert_eq!("443".parse(), Ok(Ports::new(443, 443).unwrap()));
    assert_eq!("0-65535".parse(), Ok(Ports::ALL));
    assert_eq!("9-8".parse::<Ports>(), Err(PortsError::Order { first: 9, last: 8 }));
    for bad in ["", "-", "1-", "-1", "+1", "65536", "1-2-3", "http"] {
        assert_eq!(bad.parse::<Ports>(), Err(PortsError::Shape), "{bad}");
    }
    for text in ["443", "8000-8999"] {
        assert_eq!(text.parse::<Ports>().unwrap().to_string(), text);
    }
}

#[test]
fn connecting_to_no_address_in_particular_reaches_the_loopback() {
    let loopback = endpoint(Some("127.0.0.0/8"), "80", None);
    for address in ["127.0.0.1", "0.0.0.0", "::ffff:127.1.2.3", "::ffff:0.0.0.0"] {
        assert!(loopback.contains(&tcp(SocketOp::Connect, address, 80)), "{address}");
        assert!(loopback.contains(&tcp(SocketOp::Send, address, 80)), "{address}");
    }
    assert!(endpoint(Some("::1"), "*", None).contains(&tcp(SocketOp::Connect, "::", 1)));
    assert!(!loopback.contains(&tcp(SocketOp::Connect, "128.0.0.1", 80)));
    assert!(!loopback.contains(&tcp(SocketOp::Connect, "127.0.0.1", 81)));
    assert!(!loopback.contains(&tcp(SocketOp::Bind, "0.0.0.0", 80)), "bound, it is every address");
}

#[test]
fn binding_to_no_address_in_particular_overlaps_all_of_them() {
    let v4 = endpoint(Some("10.0.0.0/8"), "80", Some(Protocol::Tcp));
    let v6 = endpoint(Some("fd00::/8"), "80", None);
    let bind = |address| tcp(SocketOp::Bind, address, 80);
    assert!(v4.overlaps(&bind("0.0.0.0")) && v4.overlaps(&bind("::")) && v4.overlaps(&bind("10.1.1.1")));
    assert!(!v4.overlaps(&bind("11.1.1.1")) && !v4.overlaps(&bind("::1")));
    assert!(v6.overlaps(&bind("::")) && !v6.overlaps(&bind("0.0.0.0")));
    assert!(!v4.overlaps(&tcp(SocketOp::Bind, "0.0.0.0", 81)), "the port counts all the same");
    assert!(!v4.overlaps(&SocketAccess { kind: SOCK_DGRAM, protocol: 0, ..bind("0.0.0.0") }));
}

#[test]
fn an_endpoint_speaks_of_the_sockets_that_can_reach_it() {
    let make = |family, kind| SocketAccess {
        op: SocketOp::Create,
        family,
        kind,
        protocol: 0,
        address: None,
        port: 0,
    };
    let v4 = endpoint(Some("10.0.0.0/8"), "*", Some(Protocol::Tcp));
    let v6 = endpoint(Some("fd00::/8"), "*", None);
    for (access, of_v4, of_v6) in [
        (make(AF_INET, SOCK_STREAM), true, false),
        (make(AF_INET6, SOCK_STREAM), true, true),
        (make(AF_SMC, SOCK_STREAM), true, true),
        (make(AF_INET, SOCK_DGRAM), false, false),
        (make(AF_INET6, SOCK_DGRAM), false, true),
        (make(AF_UNIX, SOCK_STREAM), false, false),
        (make(AF_NETLINK, SOCK_RAW), false, false),
    ] {
        assert_eq!((v4.speaks_of(&access), v6.speaks_of(&access)), (of_v4, of_v6), "{access:?}");
    }
}

#[test]
fn as_it_prints() {
    for (endpoint, text) in [
        (endpoint(None, "*", None), "*:*:*"),
        (endpoint(Some("10.0.0.0/8"), "443", Some(Protocol::Tcp)), "tcp:10.0.0.0/8:443"),
        (endpoint(Some("fd00::/8"), "1-2", Some(Protocol::Udp)), "udp:[fd00::]/8:1-2"),
    ] {
        assert_eq!(endpoint.to_string(), text);
    }
}
