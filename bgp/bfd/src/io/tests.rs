//! Real sockets on the loopback interface, which has every address of 127.0.0.0/8, without root.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::{ControlPacket, Discard, Reason, State};

const DEADLINE: Duration = Duration::from_secs(20);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// 100 ms and 5, which a busy machine can keep.
fn settings() -> Settings {
    Settings::single_hop().interval(Duration::from_millis(100)).multiplier(5)
}

async fn end(local: &str, remote: &str) -> (Handle, Events) {
    let (local, remote) = (ip(local), ip(remote));
    let options = Options::new([SocketAddr::new(local, PORT_SINGLE_HOP)]);
    let (handle, events) = start(&options).unwrap();
    handle.set_sessions(BTreeMap::from([(Key::new(local, remote), settings())])).await.unwrap();
    (handle, events)
}

async fn next(events: &mut Events) -> Event {
    tokio::time::timeout(DEADLINE, events.next()).await.expect("no event in 20 s").expect("the driver ended")
}

#[tokio::test]
async fn two_ends_come_up_and_one_that_vanishes_is_detected() {
    let (one, mut events_of_one) = end("127.81.1.1", "127.81.1.2").await;
    let (two, mut events_of_two) = end("127.81.1.2", "127.81.1.1").await;
    assert!(matches!(next(&mut events_of_one).await, Event::Up { .. }));
    assert!(matches!(next(&mut events_of_two).await, Event::Up { .. }));
    let reports = one.sessions().await.unwrap();
    assert_eq!((reports[0].state, reports[0].discarded), (State::Up, 0));

    drop(two);
    let gone = Instant::now();
    let Event::Down { reason, .. } = next(&mut events_of_one).await else { panic!("no failure") };
    assert_eq!(reason, Reason::Expired { detection_time: Duration::from_millis(500), multiplier: 5 });
    println!("detected after {:?}: {reason}", gone.elapsed());
}

#[tokio::test]
async fn an_end_that_is_stopped_is_no_failure() {
    let (one, mut events) = end("127.81.2.1", "127.81.2.2").await;
    let (two, _) = end("127.81.2.2", "127.81.2.1").await;
    assert!(matches!(next(&mut events).await, Event::Up { .. }));
    two.stop().await.unwrap();
    let event = next(&mut events).await;
    assert!(matches!(event, Event::AdminDown { reason: Reason::NeighborAdminDown, .. }), "{event:?}");
    assert_eq!(one.sessions().await.unwrap()[0].failure_count, 0);
}

#[tokio::test]
async fn a_handle_without_its_driver_returns_an_error() {
    let (handle, mut events) = start(&Options::new([])).unwrap();
    handle.clone().stop().await.unwrap();
    assert_eq!(events.next().await, None);
    assert_eq!(handle.sessions().await, Err(Stopped));
    assert!(matches!(handle.listen(BTreeSet::new()).await, Err(Stopped)));
    assert_eq!(handle.set_sessions(BTreeMap::new()).await, Err(SetSessionsError::Stopped(Stopped)));
    assert_eq!(handle.stop().await, Err(Stopped));
}

/// The hop limit and the addresses are read over IPv6 too. There is only one loopback address, so the session is with
/// itself.
#[tokio::test]
async fn ipv6_works_the_same() {
    let (handle, mut events) = end("::1", "::1").await;
    assert!(matches!(next(&mut events).await, Event::Up { .. }));
    assert_eq!(handle.sessions().await.unwrap()[0].discarded, 0);
}

#[tokio::test]
async fn a_packet_with_another_ttl_is_discarded_and_reported() {
    let (handle, _events) = end("127.81.3.1", "127.81.3.2").await;
    let forger = UdpSocket::bind("127.81.3.2:0").unwrap();
    forger.set_ttl(254).unwrap();
    let packet = ControlPacket::new(State::Down, 1);
    let wait = async {
        loop {
            forger.send_to(&packet.encode(), "127.81.3.1:3784").unwrap();
            let report = handle.sessions().await.unwrap().remove(0);
            if report.discarded > 0 {
                break report;
            }
            tokio::task::yield_now().await;
        }
    };
    let report = tokio::time::timeout(DEADLINE, wait).await.unwrap();
    assert_eq!(report.last_discard, Some(Discard::Ttl { ttl: 254, min: 255 }));
    assert_eq!((report.state, report.received), (State::Down, 0));
}

#[tokio::test]
async fn an_error_that_keeps_packets_from_being_sent_is_reported() {
    let (handle, _events) = start(&Options::new([])).unwrap();
    // A documentation address, which no machine has.
    let key = Key::new(ip("192.0.2.77"), ip("192.0.2.78"));
    handle.set_sessions(BTreeMap::from([(key, settings())])).await.unwrap();
    let error = handle.sessions().await.unwrap().remove(0).send_error.unwrap();
    assert!(error.starts_with("binding a socket to send from 192.0.2.77"), "{error}");
}

#[tokio::test]
async fn a_port_in_use_is_an_error_with_a_remedy_on_the_runtime_and_on_a_thread() {
    let taken = Listener::new("127.81.4.1:3784".parse().unwrap()).unwrap();
    let options = Options::new(["127.81.4.1:3784".parse().unwrap()]);
    for result in [start(&options), start_thread(&options)] {
        let error = result.unwrap_err();
        assert!(matches!(error, StartError::Listen(_)));
        assert!(error.to_string().contains("another BFD daemon"), "{error}");
    }
    drop(taken);
}
