//! Answers and their staleness, with answers that a test sets.

use super::*;
use crate::netlink::Cause;
use std::cell::RefCell;
use std::rc::Rc;

/// Answers by a test, and the record of the questions.
#[derive(Clone, Default)]
struct Fake {
    state: Rc<RefCell<State>>,
}

#[derive(Default)]
struct State {
    segments: BTreeMap<IpAddr, Segment>,
    interfaces: BTreeMap<IpAddr, Interface>,
    asked: Vec<IpAddr>,
    broken: bool,
}

impl Questions for Fake {
    fn segments(&mut self, next_hops: &[IpAddr]) -> Vec<KernelResult<Segment>> {
        let mut state = self.state.borrow_mut();
        state.asked.extend(next_hops);
        let answer = |next_hop: &IpAddr| match state.segments.get(next_hop) {
            _ if state.broken => Err(KernelError::from_cause("look up", Cause::NoAnswer)),
            Some(segment) => Ok(segment.clone()),
            None => Ok(Segment::Unreachable { error: "none".to_owned() }),
        };
        next_hops.iter().map(answer).collect()
    }

    fn interface(&mut self, address: IpAddr) -> KernelResult<Interface> {
        let mut state = self.state.borrow_mut();
        state.asked.push(address);
        let found = state.interfaces.get(&address).cloned();
        found.ok_or_else(|| KernelError::from_cause(format!("find {address}"), Cause::NoAnswer))
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn over(oif: u32) -> Segment {
    Segment::Direct { oif, name: format!("eth{oif}"), source: ip("192.0.2.1") }
}

/// Returns an underlay that has answers for two next hops by interface 2, one by 3, one unreachable, and one address.
fn underlay() -> (Fake, Underlay<Fake>) {
    let fake = Fake::default();
    {
        let mut state = fake.state.borrow_mut();
        for (next_hop, oif) in [("192.0.2.2", 2), ("192.0.2.130", 2), ("2001:db8::3", 3)] {
            state.segments.insert(ip(next_hop), over(oif));
        }
        state.interfaces.insert(ip("192.0.2.1"), Interface { index: 2, name: "eth2".into(), mtu: 1500 });
    }
    let mut underlay = Underlay::new(fake.clone());
    for next_hop in ["192.0.2.2", "192.0.2.130", "2001:db8::3", "198.51.100.4"] {
        underlay.add_next_hop(ip(next_hop));
    }
    underlay.set_addresses(&[ip("192.0.2.1")]);
    assert!(underlay.is_stale());
    let changed = underlay.look_up();
    assert_eq!((changed.next_hops.len(), changed.addresses.len()), (4, 1));
    assert!(!underlay.is_stale());
    fake.state.borrow_mut().asked.clear();
    (fake, underlay)
}

fn foreign(prefix: &str) -> Hint {
    Hint::ForeignRoute(ForeignRoute {
        prefix: prefix.parse().unwrap(),
        table: 254,
        metric: 0,
        tos: 0,
        protocol: 4,
        added: true,
    })
}

#[test]
fn a_hint_asks_again_for_what_it_can_concern() {
    let (fake, mut underlay) = underlay();
    let address = |index, address: &str| Hint::Address { index, address: ip(address) };
    for (hint, asked) in [
        (foreign("192.0.2.128/25"), vec!["192.0.2.130"]),
        (foreign("0.0.0.0/0"), vec!["192.0.2.2", "192.0.2.130", "198.51.100.4"]),
        (foreign("::/0"), vec!["2001:db8::3"]),
        (foreign("203.0.113.0/24"), vec![]),
        (Hint::Link { index: 3, ours: false }, vec!["198.51.100.4", "2001:db8::3"]),
        (Hint::Link { index: 9, ours: false }, vec!["198.51.100.4"]),
        (address(9, "192.0.2.2"), vec!["192.0.2.2", "198.51.100.4"]),
        (address(3, "192.0.2.1"), vec!["198.51.100.4", "2001:db8::3", "192.0.2.1"]),
        (Hint::OwnRoute { prefix: "192.0.2.0/24".parse().unwrap() }, vec![]),
        (Hint::Nftables { generation: None, ours: true }, vec![]),
    ] {
        assert_eq!(underlay.invalidate(&hint), !asked.is_empty(), "{hint:?}");
        assert_eq!(underlay.look_up(), Changed::default(), "{hint:?}: the answers are the same");
        let expected: Vec<IpAddr> = asked.into_iter().map(ip).collect();
        assert_eq!(std::mem::take(&mut fake.state.borrow_mut().asked), expected, "{hint:?}");
    }
    for hint in [Hint::Everything, Hint::Periodic, Hint::Rule] {
        underlay.invalidate(&hint);
        underlay.look_up();
        assert_eq!(std::mem::take(&mut fake.state.borrow_mut().asked).len(), 5);
    }
}

#[test]
fn what_changed_is_returned() {
    let (fake, mut underlay) = underlay();
    fake.state.borrow_mut().segments.insert(ip("192.0.2.2"), over(7));
    fake.state.borrow_mut().interfaces.clear();
    underlay.invalidate(&Hint::Rule);
    let changed = underlay.look_up();
    assert_eq!(changed, Changed { next_hops: vec![ip("192.0.2.2")], addresses: vec![ip("192.0.2.1")] });
    assert_eq!(underlay.segment(ip("192.0.2.2")), Some(&over(7)));
    assert_eq!(underlay.interface(ip("192.0.2.1")), None, "no interface has it any more");
    assert_eq!(underlay.problems().len(), 1);
    assert!(underlay.is_stale(), "it is asked again");

    underlay.remove_next_hop(ip("192.0.2.2"));
    assert_eq!(underlay.segment(ip("192.0.2.2")), None);
    underlay.set_addresses(&[]);
    underlay.look_up();
    assert!(underlay.problems().is_empty() && !underlay.is_stale());
}

#[test]
fn a_failed_look_up_keeps_the_former_answer_and_is_repeated() {
    let (fake, mut underlay) = underlay();
    fake.state.borrow_mut().broken = true;
    underlay.invalidate(&Hint::Everything);
    assert_eq!(underlay.look_up(), Changed::default());
    assert_eq!(underlay.segment(ip("192.0.2.2")), Some(&over(2)));
    assert_eq!(underlay.problems().len(), 1, "similar ones are one");
    assert!(underlay.is_stale());
    fake.state.borrow_mut().broken = false;
    underlay.look_up();
    assert!(underlay.problems().is_empty() && !underlay.is_stale());
}
