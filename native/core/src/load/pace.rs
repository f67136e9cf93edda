//! When requests are sent.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::{spawn_local, yield_now};
use tokio::time::sleep;

use super::records::{Records, Times};
use super::{Control, Options, Pacing};

/// Below it the clock of the runtime is too coarse, so that the generator spins.
const SPIN: Duration = Duration::from_millis(2);
/// How often a wait looks at whether the run was stopped.
const GLANCE: Duration = Duration::from_millis(20);
/// A closed loop would storm a server that is away.
const PAUSE: Duration = Duration::from_millis(10);

/// Sends one request and records what became of it.
pub(super) trait Caller: Clone + 'static {
    /// The request of this number; true where the transport failed.
    async fn call(&self, records: &Records, number: usize, times: Times) -> bool;
}

/// Sends until the time is over, and waits for what is unanswered then.
pub(super) async fn run<C: Caller>(
    options: &Options,
    control: &Control,
    records: &Rc<Records>,
    callers: Vec<C>,
    on_ready: impl FnOnce(),
) {
    let end = options.warmup + options.duration;
    match options.pacing {
        Pacing::Open { rate, max_in_flight } => {
            on_ready();
            open(rate, max_in_flight, end, control, records, &callers).await;
        }
        Pacing::Closed { in_flight } => {
            on_ready();
            closed(in_flight, end, control, records, &callers).await;
        }
        Pacing::Idle => {
            for (number, caller) in callers.iter().enumerate() {
                caller.call(records, number, records.now()).await;
            }
            on_ready();
            // The connections' own tasks go on, and answer pings.
            while !control.is_stopped() {
                sleep(GLANCE).await;
            }
        }
    }
    records.close(end, control.is_stopped());
    while records.unanswered() > 0 && !control.is_abandoned() {
        sleep(GLANCE).await;
    }
    records.abandon();
}

/// Request n is sent n / rate after the start, however late the answers are. It spins, so that it is late by
/// microseconds: it takes a whole CPU wherever requests are less than `SPIN` apart.
async fn open<C: Caller>(
    rate: f64,
    max_in_flight: usize,
    end: Duration,
    control: &Control,
    records: &Rc<Records>,
    callers: &[C],
) {
    for number in 0_usize.. {
        let intended = Duration::from_secs_f64(number as f64 / rate);
        if !wait_until(intended.min(end), records, control).await || intended >= end {
            return;
        }
        if records.unanswered() >= max_in_flight {
            records.miss(intended);
            continue;
        }
        let times = records.at(intended);
        let (caller, records) = (callers[number % callers.len()].clone(), Rc::clone(records));
        spawn_local(async move { caller.call(&records, number, times).await });
    }
}

/// True once it is time; false where the run was stopped before.
async fn wait_until(intended: Duration, records: &Records, control: &Control) -> bool {
    loop {
        // Also where it is late: the answers must be read.
        yield_now().await;
        if control.is_stopped() {
            return false;
        }
        let left = intended.saturating_sub(records.elapsed());
        if left.is_zero() {
            return true;
        }
        if left > 2 * SPIN {
            sleep((left - SPIN).min(GLANCE)).await;
        }
    }
}

async fn closed<C: Caller>(
    in_flight: usize,
    end: Duration,
    control: &Control,
    records: &Rc<Records>,
    callers: &[C],
) {
    let over = Rc::new(std::cell::Cell::new(false));
    for first in 0..in_flight {
        let (caller, records, over) = (
            callers[first % callers.len()].clone(),
            Rc::clone(records),
            Rc::clone(&over),
        );
        spawn_local(async move {
            let mut number = first;
            while !over.get() && records.elapsed() < end {
                if caller.call(&records, number, records.now()).await {
                    sleep(PAUSE).await;
                }
                number += in_flight;
            }
        });
    }
    while records.elapsed() < end && !control.is_stopped() {
        sleep(GLANCE.min(end.saturating_sub(records.elapsed()))).await;
    }
    over.set(true);
}
