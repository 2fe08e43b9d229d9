//! The generation of each of Heliograph's objects that is in force.

use std::collections::BTreeMap;

use super::unusable::UnusableObject;
use crate::api::ObjectRef;
use crate::store::ObjectGeneration;
use crate::store::check::Object;

/// The newest generation of each of Heliograph's objects in the API server, with the object where it is valid.
pub type Newest = BTreeMap<ObjectRef, (i64, Option<Object>)>;

/// Returns the newest generations. Of an unusable object an older version may be among `objects`.
pub fn newest(objects: &[Object], unusable: &[UnusableObject]) -> Newest {
    let usable = objects.iter().filter(|object| object.kind().is_heliograph());
    let mut newest: Newest = usable
        .filter_map(|object| Some((object.reference(), (object.generation?, Some(object.clone())))))
        .collect();
    for unusable in unusable {
        match unusable.generation {
            Some(generation) => newest.insert(unusable.object.clone(), (generation, None)),
            None => newest.remove(&unusable.object),
        };
    }
    newest
}

/// Returns the generations in force of the newest objects, where `accepted` are all objects in force.
pub fn in_force(newest: &Newest, accepted: &[Object]) -> Vec<ObjectGeneration> {
    let accepted: BTreeMap<ObjectRef, &Object> =
        accepted.iter().map(|object| (object.reference(), object)).collect();
    let each = newest.iter().map(|(object, (generation, content))| {
        let in_force = accepted.get(object).and_then(|accepted| {
            let is_newest = content.as_ref() == Some(accepted);
            // An object that was deleted and made anew may have the generation of the former one.
            accepted.generation.filter(|in_force| is_newest || in_force != generation)
        });
        ObjectGeneration { object: object.clone(), generation: *generation, in_force }
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ObjectKind;
    use crate::store::decode::{self, UnknownFields};
    use crate::store::problem::Problems;
    use serde_json::json;

    fn peer(name: &str, generation: i64, asn: u32) -> Object {
        let value = json!({"apiVersion": crate::api::API_VERSION, "kind": "BGPPeer",
            "metadata": {"name": name, "generation": generation}, "spec": {"peerAddress": "192.0.2.1", "peerASN": asn}});
        decode::object(&value, UnknownFields::Rejected, &mut Problems::of(0, &mut Vec::new())).unwrap()
    }

    #[test]
    fn the_generation_in_force_is_that_of_the_accepted_object() {
        let unusable = |name: &str, generation| UnusableObject {
            object: ObjectRef::new(ObjectKind::BGPPeer, name),
            generation,
            problems: Vec::new(),
        };
        let now = [peer("good", 3, 1), peer("rejected", 3, 0), peer("new", 1, 0), peer("anew", 1, 0)];
        // The accepted versions of unusable objects are among the objects, too.
        let now = [&now[..], &[peer("unusable", 2, 1), peer("gone", 2, 1)]].concat();
        let newest = newest(&now, &[unusable("unusable", Some(4)), unusable("gone", None)]);
        let accepted = [
            peer("good", 3, 1),
            peer("rejected", 2, 1),
            peer("anew", 1, 1),
            peer("unusable", 2, 1),
            peer("gone", 2, 1),
        ];
        let lines: Vec<_> = in_force(&newest, &accepted)
            .iter()
            .map(|one| format!("{} {} {:?}", one.object, one.generation, one.in_force))
            .collect();
        let expected = [
            "BGPPeer anew 1 None",
            "BGPPeer good 3 Some(3)",
            "BGPPeer new 1 None",
            "BGPPeer rejected 3 Some(2)",
            "BGPPeer unusable 4 Some(2)",
        ];
        assert_eq!(lines, expected);
    }
}
