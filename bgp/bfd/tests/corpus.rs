//! Replays the fuzz corpus (`fuzz/corpus`), and some seeded noise.
#![allow(clippy::disallowed_methods, reason = "a test needs an instant to count from")]

#[path = "../fuzz/harness.rs"]
mod harness;

use std::path::Path;

#[test]
fn session() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/session");
    let mut count = 0;
    for file in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        harness::session(&std::fs::read(file.expect("an entry").path()).expect("readable"));
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
    let mut rng = fastrand::Rng::with_seed(4);
    for _ in 0..2000 {
        let noise: Vec<u8> = (0..rng.usize(..300)).map(|_| rng.u8(..)).collect();
        harness::session(&noise);
    }
}
