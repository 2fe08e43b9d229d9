//! Subscribers: what one has read of the best routes, however much it read at a time.

use super::*;
use crate::report::BestRoute;
use crate::rib::SubscriberId;

/// A reader of the best routes, which has nothing but the changes.
#[derive(Debug)]
pub(super) struct Reader {
    id: SubscriberId,
    routes: BTreeMap<Prefix, BestRoute>,
}

impl Reader {
    pub(super) fn new(rib: &mut Rib) -> Self {
        Self { id: rib.subscribe(), routes: BTreeMap::new() }
    }

    pub(super) fn id(&self) -> SubscriberId {
        self.id
    }

    /// Reads once; returns the number of changes, and whether there are more.
    pub(super) fn read(&mut self, rib: &mut Rib, limit: usize) -> (usize, bool) {
        let (changes, more) = rib.best_changes(self.id, limit);
        assert!(changes.len() <= limit);
        for change in &changes {
            match change.route {
                Some(route) => {
                    assert_eq!(route.prefix, change.prefix);
                    self.routes.insert(change.prefix, route);
                }
                None => {
                    let before = self.routes.remove(&change.prefix);
                    assert!(before.is_some(), "{}: a withdrawal of a route that it had not", change.prefix);
                }
            }
        }
        (changes.len(), more)
    }

    /// Reads all changes; its table is then that of the best routes.
    pub(super) fn finish(&mut self, rib: &mut Rib) {
        while self.read(rib, 3).1 {}
        assert_eq!(self.routes.values().copied().collect::<Vec<_>>(), rib.best_routes());
    }
}

fn ours(n: u8) -> Rib {
    let mut rib = rib_with(&[PeerKind::Client, PeerKind::Client]);
    for last in 0..n {
        rib.update(
            id(1),
            advertise(attributes(PeerKind::Client), "10.0.0.1", &[&format!("10.1.{last}.0/24")]),
        );
    }
    rib
}

#[test]
fn a_new_subscriber_begins_with_everything_in_pieces() {
    let mut rib = ours(10);
    let mut reader = Reader::new(&mut rib);
    assert_eq!(reader.read(&mut rib, 4), (4, true));
    // A change ahead of it is read once, and one behind it again.
    rib.update(id(1), advertise(attributes(PeerKind::Client), "10.0.0.7", &["10.1.9.0/24", "10.1.0.0/24"]));
    assert_eq!(reader.read(&mut rib, 4), (4, true));
    assert_eq!(reader.read(&mut rib, 4), (3, false));
    reader.finish(&mut rib);
    assert_eq!(reader.read(&mut rib, 4), (0, false));
}

#[test]
fn what_came_and_went_is_not_read() {
    let mut rib = ours(1);
    let mut reader = Reader::new(&mut rib);
    reader.finish(&mut rib);
    rib.update(id(1), advertise(attributes(PeerKind::Client), "10.0.0.1", &["10.2.0.0/16"]));
    reader.finish(&mut rib);
    rib.update(id(1), withdraw(&["10.2.0.0/16"]));
    reader.finish(&mut rib);
    // The slot of 10.2.0.0/16 is free now and used again.
    rib.update(id(1), advertise(attributes(PeerKind::Client), "10.0.0.1", &["10.3.0.0/16"]));
    rib.update(id(1), withdraw(&["10.3.0.0/16"]));
    assert_eq!(reader.read(&mut rib, 4), (0, false));
}

#[test]
fn a_change_of_other_attributes_is_not_read() {
    let mut rib = ours(1);
    let mut reader = Reader::new(&mut rib);
    reader.finish(&mut rib);
    let other = Attributes { med: Some(7), ..attributes(PeerKind::Client) };
    rib.update(id(1), advertise(other, "10.0.0.1", &["10.1.0.0/24"]));
    assert_eq!(reader.read(&mut rib, 4), (0, false));
}

#[test]
fn a_withdrawn_prefix_is_read_before_its_slot_is_used_again() {
    let mut rib = ours(1);
    let mut reader = Reader::new(&mut rib);
    reader.finish(&mut rib);
    rib.update(id(1), withdraw(&["10.1.0.0/24"]));
    rib.update(id(1), advertise(attributes(PeerKind::Client), "10.0.0.1", &["10.2.0.0/16"]));
    reader.finish(&mut rib);
    rib.unsubscribe(reader.id());
    rib.update(id(1), withdraw(&["10.2.0.0/16"]));
    while rib.pack(id(2), 4096, &mut BytesMut::new()) > 0 {}
    assert!(rib.is_empty());
}

#[test]
fn slots_that_change_often_do_not_hold_up_others() {
    let mut rib = ours(10);
    let mut reader = Reader::new(&mut rib);
    reader.finish(&mut rib);
    let all: Vec<String> = (0..10).map(|last| format!("10.1.{last}.0/24")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    rib.update(id(1), advertise(attributes(PeerKind::Client), "10.0.0.7", &all));
    let via =
        |reader: &Reader| reader.routes.values().filter(|route| route.next_hop == ip("10.0.0.7")).count();
    for round in 1..=5 {
        reader.read(&mut rib, 2);
        assert_eq!(via(&reader), 2 * round);
        // The first two change back and forth meanwhile.
        for via in ["10.0.0.8", "10.0.0.7"] {
            rib.update(id(1), advertise(attributes(PeerKind::Client), via, &all[..2]));
        }
    }
    reader.finish(&mut rib);
}
