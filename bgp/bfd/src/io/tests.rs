//! Real sockets on the loopback: every address of 127.0.0.0/8 is there, without root.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::{ControlPacket, Diagnostic, State};

const DEADLINE: Duration = Duration::from_secs(20);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// 100 ms and 5: a loaded machine may take its time.
fn settings() -> Settings {
    let interval = Duration::from_millis(100);
    Settings { min_tx: interval, min_rx: interval, multiplier: 5, ..Settings::default() }
}

async fn end(local: &str, remote: &str) -> (Handle, mpsc::Receiver<Event>) {
    let (local, remote) = (ip(local), ip(remote));
    let options = Options { listen: vec![SocketAddr::new(local, PORT_SINGLE_HOP)] };
    let (handle, news) = start(&options).unwrap();
    handle.set_sessions(BTreeMap::from([(Key { local, remote }, settings())])).await.unwrap();
    (handle, news)
}

async fn next(news: &mut mpsc::Receiver<Event>) -> Event {
    tokio::time::timeout(DEADLINE, news.recv()).await.expect("no news in 20 s").expect("the driver ended")
}

#[tokio::test]
async fn two_ends_find_each_other_and_one_that_vanishes_is_missed() {
    let (one, mut news_of_one) = end("127.81.1.1", "127.81.1.2").await;
    let (two, mut news_of_two) = end("127.81.1.2", "127.81.1.1").await;
    assert!(matches!(next(&mut news_of_one).await, Event::Up { .. }));
    assert!(matches!(next(&mut news_of_two).await, Event::Up { .. }));
    let reports = one.sessions().await;
    assert_eq!((reports[0].state, reports[0].discarded), (State::Up, 0));

    drop(two);
    let gone = Instant::now();
    let Event::Down { why, .. } = next(&mut news_of_one).await else { panic!("no failure") };
    assert!(why.contains("nothing heard from 127.81.1.2"), "{why}");
    println!("missed after {:?}: {why}", gone.elapsed());
}

#[tokio::test]
async fn an_end_that_is_stopped_is_no_failure() {
    let (one, mut news) = end("127.81.2.1", "127.81.2.2").await;
    let (two, _) = end("127.81.2.2", "127.81.2.1").await;
    assert!(matches!(next(&mut news).await, Event::Up { .. }));
    two.stop().await;
    let event = next(&mut news).await;
    assert!(matches!(&event, Event::AdminDown { why, .. } if why.contains("127.81.2.2")), "{event:?}");
    assert_eq!(one.sessions().await[0].failure_count, 0);
}

/// The hop limit and the addresses are read over IPv6 too. There is only one loopback address, so the session is with
/// itself.
#[tokio::test]
async fn ipv6_works_the_same() {
    let (handle, mut news) = end("::1", "::1").await;
    assert!(matches!(next(&mut news).await, Event::Up { .. }));
    assert_eq!(handle.sessions().await[0].discarded, 0);
}

#[tokio::test]
async fn a_packet_with_another_ttl_is_refused_and_named() {
    let (handle, _news) = end("127.81.3.1", "127.81.3.2").await;
    let forger = UdpSocket::bind("127.81.3.2:0").unwrap();
    forger.set_ttl(254).unwrap();
    let packet = ControlPacket {
        diagnostic: Diagnostic::NONE,
        state: State::Down,
        poll: false,
        final_: false,
        control_plane_independent: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 1,
        your_discriminator: 0,
        desired_min_tx: Duration::from_secs(1),
        required_min_rx: Duration::from_secs(1),
        required_min_echo_rx: Duration::ZERO,
    };
    let wait = async {
        loop {
            forger.send_to(&packet.encode(), "127.81.3.1:3784").unwrap();
            let report = handle.sessions().await.remove(0);
            if report.discarded > 0 {
                break report;
            }
            tokio::task::yield_now().await;
        }
    };
    let report = tokio::time::timeout(DEADLINE, wait).await.unwrap();
    assert!(report.last_discard.unwrap().starts_with("TTL 254 where at least 255 is due"));
    assert_eq!((report.state, report.received), (State::Down, 0));
}

#[tokio::test]
async fn what_keeps_packets_from_leaving_is_reported() {
    let options = Options { listen: vec![] };
    let (handle, _news) = start(&options).unwrap();
    // Not ours: documentation addresses are on no machine.
    let key = Key { local: ip("192.0.2.77"), remote: ip("192.0.2.78") };
    handle.set_sessions(BTreeMap::from([(key, settings())])).await.unwrap();
    let error = handle.sessions().await.remove(0).send_error.unwrap();
    assert!(error.starts_with("binding a socket to send from 192.0.2.77"), "{error}");
}

#[tokio::test]
async fn a_port_in_use_is_named_with_what_to_do() {
    let taken = Listener::new("127.81.4.1:3784".parse().unwrap()).unwrap();
    let options = Options { listen: vec!["127.81.4.1:3784".parse().unwrap()] };
    let error = start(&options).unwrap_err();
    assert!(error.to_string().contains("another BFD daemon"), "{error}");
    drop(taken);
}
