//! Which generation of each object of ours is in force.

use std::collections::BTreeMap;

use super::keeper::Unreadable;
use crate::store::ObjectGeneration;
use crate::store::check::Object;
use crate::store::problem::ObjectRef;

/// What the API server holds of our kinds now, by generation; the object where it could be read.
pub type Told = BTreeMap<ObjectRef, (i64, Option<Object>)>;

/// What there is now. Of an object that can't be read an older version may be among `objects`.
pub fn told(objects: &[Object], unreadable: &[Unreadable]) -> Told {
    let readable = objects.iter().filter(|object| object.kind_name().starts_with("BGP"));
    let mut told: Told = readable
        .filter_map(|object| Some((object.key(), (object.generation?, Some(object.clone())))))
        .collect();
    for object in unreadable {
        match object.generation {
            Some(generation) => told.insert(object.key.clone(), (generation, None)),
            None => told.remove(&object.key),
        };
    }
    told
}

/// What of that is in force, `good` being all that is.
pub fn taken(told: &Told, good: &[Object]) -> Vec<ObjectGeneration> {
    let good: BTreeMap<ObjectRef, &Object> = good.iter().map(|object| (object.key(), object)).collect();
    let each = told.iter().map(|(key, (generation, object))| {
        let in_force = good.get(key).and_then(|good| {
            let newest = object.as_ref() == Some(good);
            // Of two objects of one name the generations may be the same.
            good.generation.filter(|in_force| newest || in_force != generation)
        });
        ObjectGeneration { object: format!("{} {}", key.kind, key.name), generation: *generation, in_force }
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::decode::{self, Unknown};
    use crate::store::problem::Problems;
    use serde_json::json;

    fn peer(name: &str, generation: i64, asn: u32) -> Object {
        let value = json!({"apiVersion": crate::api::API_VERSION, "kind": "BGPPeer",
            "metadata": {"name": name, "generation": generation}, "spec": {"peerAddress": "192.0.2.1", "peerASN": asn}});
        decode::object(&value, Unknown::Refused, &mut Problems::of(0, &mut Vec::new())).unwrap()
    }

    #[test]
    fn a_generation_is_in_force_that_is_good() {
        let unreadable = |name: &str, generation| Unreadable {
            key: ObjectRef::new("BGPPeer", name),
            generation,
            problems: Vec::new(),
        };
        let now = [peer("good", 3, 1), peer("refused", 3, 0), peer("new", 1, 0), peer("anew", 1, 0)];
        // Those that can't be read are also there as they were.
        let now = [&now[..], &[peer("unread", 2, 1), peer("gone", 2, 1)]].concat();
        let told = told(&now, &[unreadable("unread", Some(4)), unreadable("gone", None)]);
        let good = [
            peer("good", 3, 1),
            peer("refused", 2, 1),
            peer("anew", 1, 1),
            peer("unread", 2, 1),
            peer("gone", 2, 1),
        ];
        let taken = taken(&told, &good);
        let words: Vec<_> =
            taken.iter().map(|one| format!("{} {} {:?}", one.object, one.generation, one.in_force)).collect();
        let expected = [
            "BGPPeer anew 1 None",
            "BGPPeer good 3 Some(3)",
            "BGPPeer new 1 None",
            "BGPPeer refused 3 Some(2)",
            "BGPPeer unread 4 Some(2)",
        ];
        assert_eq!(words, expected);
    }
}
