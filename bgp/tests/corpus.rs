//! Replays the inputs that fuzzing has found (`fuzz/corpus`), and some random bytes with a seed.
#![allow(clippy::disallowed_methods, reason = "a test needs some beginning of time, and a seed")]

#[path = "../fuzz/harness.rs"]
mod harness;

use std::path::Path;

fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for file in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        run(&std::fs::read(file.expect("an entry").path()).expect("readable"));
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
    let mut rng = fastrand::Rng::with_seed(4);
    for _ in 0..2000 {
        let noise: Vec<u8> = (0..rng.usize(..300)).map(|_| rng.u8(..)).collect();
        run(&noise);
    }
}

#[test]
fn framer() {
    replay("framer", harness::framer);
}

#[test]
fn open() {
    replay("open", harness::open);
}

#[test]
fn update() {
    replay("update", harness::update);
}

#[test]
fn speaker() {
    replay("speaker", harness::speaker);
}
