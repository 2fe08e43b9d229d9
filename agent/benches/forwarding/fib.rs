//! The routes of one BGP peer into the kernel: learned, changed and withdrawn.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::Numbers;
use crate::daemon::{Daemon, Program, Subject};
use crate::network::AgentNet;
use crate::objects::{Cluster, node};
use crate::outside::{Family, Outside, TABLE, Table, bgp_peer};
use crate::report::{Row, Unit};
use crate::routes::Routes;

/// The pause before each phase, so that nothing of the one before falls into it.
const PAUSE: Duration = Duration::from_secs(2);

/// Runs all phases with a new daemon.
pub fn run(subject: &Subject, family: Family, numbers: &Numbers) -> Result<Vec<Row>> {
    crate::priority::set(true);
    let network = AgentNet::new()?;
    let first = Table { family, routes: numbers.routes, next_hops: numbers.next_hops, version: 0 };
    let second = Table { version: 1, ..first };
    let phases = [
        ("learn", first.advertise(), Some(&first)),
        ("change", second.advertise(), Some(&second)),
        ("withdraw", second.withdraw(), None),
    ];
    let routes = Routes::watch(&network, family, numbers.routes)?;
    let mut daemon = match &subject.program {
        Program::Agent(program) => Daemon::with_folder(&network, program, &intent(family))?,
        Program::Bird(program) => Daemon::bird(&network, program, family)?,
    };
    let mut rows = Vec::new();
    let session = Outside::establish(TABLE, family).with_context(|| daemon.log_tail());
    let mut session = session?;
    if let Program::Agent(_) = &subject.program {
        daemon.ready()?;
    }
    std::thread::sleep(PAUSE);
    rows.push(Row::new("memory without routes", daemon.memory() as f64, Unit::Octets));
    let mut in_all = Duration::ZERO;
    for (phase, messages, wanted) in phases {
        daemon.reset_peak()?;
        routes.expect(wanted);
        let (start, before) = (Instant::now(), daemon.cpu());
        session.send(&messages)?;
        let end = routes.reached(&mut daemon).with_context(|| format!("{phase}: {}", daemon.log_tail()))?;
        let cpu = daemon.cpu().saturating_sub(before);
        let seconds = (end - start).as_secs_f64();
        rows.push(Row::new(format!("{phase}: routes"), f64::from(numbers.routes) / seconds, Unit::PerSecond));
        rows.push(Row::new(format!("{phase}: CPU"), cpu.as_secs_f64(), Unit::Seconds));
        std::thread::sleep(if phase == "learn" { numbers.settle } else { PAUSE });
        daemon.check()?;
        in_all += daemon.cpu().saturating_sub(before);
        rows.push(Row::new(format!("{phase}: peak of memory"), daemon.peak() as f64, Unit::Octets));
        if phase == "learn" {
            rows.push(Row::new("memory at rest with the routes", daemon.memory() as f64, Unit::Octets));
        }
    }
    rows.push(Row::new("CPU with the pauses after phases", in_all.as_secs_f64(), Unit::Seconds));
    Ok(rows)
}

/// Returns a cluster of one node with the peer.
fn intent(family: Family) -> Vec<Value> {
    vec![Cluster { reflected: false, nodes: 1 }.configuration(), node(0), bgp_peer("table", TABLE, family)]
}
