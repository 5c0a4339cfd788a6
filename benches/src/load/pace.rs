//! Requests at a steady pace, whatever becomes of the ones before (open loop): a time begins when its request was due,
//! so that a stall is seen in all that it held up. One thread for each connection, because a runtime's timers tick in
//! milliseconds.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use isthmus_world::Host;
use rustix::thread::{ClockId, NanosleepRelativeResult, clock_nanosleep_relative};
use rustix::time::Timespec;

use super::{Percentiles, http};

/// A slower answer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Until the first request: all threads are there by then.
const LEAD: Duration = Duration::from_millis(100);

/// How the requests are laid out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) connections: u32,
    pub(crate) per_second: u32,
    pub(crate) length: Duration,
}

/// Runs on `host`. A single failed request is an error. Returns the times and how many there were.
pub(crate) fn pace(host: &Host, target: SocketAddr, pace: Pace) -> Result<(Percentiles, f64), String> {
    let times = host.run(move || -> io::Result<Vec<f64>> {
        let start = Instant::now() + LEAD;
        let spawn = |connection| {
            // A thread inherits the namespaces of the thread that starts it.
            std::thread::spawn(move || caller(target, pace, start, connection))
        };
        let callers: Vec<_> = (0..pace.connections).map(spawn).collect();
        let mut all = Vec::new();
        for caller in callers {
            all.extend(caller.join().map_err(|_| io::Error::other("a caller's thread panicked"))??);
        }
        Ok(all)
    });
    let times = times.map_err(|error| format!("a request to {target} failed: {error}"))?;
    let count = times.len() as f64;
    Ok((Percentiles::of(times).ok_or("no request was sent")?, count))
}

/// Every `connections`th request.
fn caller(target: SocketAddr, pace: Pace, start: Instant, connection: u32) -> io::Result<Vec<f64>> {
    // The kernel rounds a sleep up by 50 µs without this, and all contenders would look slower by it.
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = http::get(target);
    let gap = Duration::from_secs(1) / pace.per_second;
    let mut times = Vec::new();
    let mut answer = [0; 1024];
    for number in (connection..).step_by(pace.connections as usize) {
        let due = gap * number;
        if due >= pace.length {
            break;
        }
        sleep_until(start + due)?;
        stream.write_all(&request)?;
        let mut length = 0;
        while !http::is_whole(&answer[..length])? {
            match stream.read(&mut answer[length..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => length += read,
            }
        }
        times.push((start + due).elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

fn sleep_until(instant: Instant) -> io::Result<()> {
    loop {
        let left = instant.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match clock_nanosleep_relative(ClockId::Monotonic, &left) {
            NanosleepRelativeResult::Ok | NanosleepRelativeResult::Interrupted(_) => {}
            NanosleepRelativeResult::Err(error) => return Err(error.into()),
        }
    }
}
