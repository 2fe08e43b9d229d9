//! A BFD session in one file: prints its events, and applies each line read from standard input.
//!
//! `cargo run -p heliograph-bfd --example bfd -- 10.0.0.1 10.0.0.2`, then lines such as
//! `100 3` (milliseconds and multiplier), `down`, `up`, `show`, `quit`.
#![allow(clippy::disallowed_methods, reason = "an example has sockets and a clock")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use heliograph_bfd::io::{Options, start};
use heliograph_bfd::{Key, Path, Settings};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

const USAGE: &str = "usage: bfd OUR-ADDRESS PEER-ADDRESS [multihop]";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [local, remote, rest @ ..] = &arguments[..] else { return Err(USAGE.into()) };
    let key = Key::new(local.parse()?, remote.parse()?);
    let multihop = rest.iter().any(|word| word == "multihop");
    let path = if multihop { Path::Multihop { min_ttl: 0 } } else { Path::SingleHop };
    let mut settings = Settings::default().path(path);

    let (bfd, mut events) = start(&Options::new([SocketAddr::new(key.local, path.port())]))?;
    bfd.set_sessions(BTreeMap::from([(key, settings)])).await?;
    let start = Instant::now();
    let mut lines = BufReader::new(stdin()).lines();
    loop {
        tokio::select! {
            Some(event) = events.next() => println!("{:9.3} {event}", start.elapsed().as_secs_f64()),
            line = lines.next_line() => match line?.as_deref().map(str::trim) {
                None | Some("quit") => break,
                Some("show") => println!("{:#?}", bfd.sessions().await?),
                Some("down") => settings.admin_down = true,
                Some("up") => settings.admin_down = false,
                Some(line) => {
                    let Some((interval, multiplier)) = line.split_once(' ') else { continue };
                    settings = settings
                        .interval(Duration::from_millis(interval.parse()?))
                        .multiplier(multiplier.parse()?);
                }
            },
        }
        bfd.set_sessions(BTreeMap::from([(key, settings)])).await?;
    }
    bfd.stop().await?;
    Ok(())
}
