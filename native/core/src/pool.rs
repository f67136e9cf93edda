//! Threads for requests that would keep a worker for long, and how long the queue before them is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::faults::{Faults, panic_text};
use crate::seat::Seat;

/// What a thread does once, with the right to what belongs to it.
pub type Job = Box<dyn FnOnce(&mut Seat) + Send>;

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A fixed number of threads before one bounded queue. They end when this is dropped, after the jobs they are at.
#[derive(Debug)]
pub struct Pool {
    sender: Sender<Queued>,
    ahead: Arc<Ahead>,
    threads: u64,
}

#[derive(Debug, Default)]
struct Ahead {
    /// Estimated time of all jobs that are queued or running.
    cost_ns: AtomicU64,
    /// Jobs that no thread has taken yet.
    queued: AtomicUsize,
}

struct Queued {
    job: Job,
    cost: Cost,
}

/// A job's share of what is ahead, until the job is through.
struct Cost {
    ahead: Arc<Ahead>,
    cost_ns: u64,
}

impl Pool {
    /// Starts a thread for each seat.
    pub fn start(seats: Vec<Seat>, queue: usize, faults: &Arc<Faults>) -> std::io::Result<Self> {
        let (sender, receiver) = bounded(queue);
        let ahead = Arc::new(Ahead::default());
        let threads = seats.len() as u64;
        for (index, seat) in seats.into_iter().enumerate() {
            let (receiver, faults, ahead) = (receiver.clone(), Arc::clone(faults), Arc::clone(&ahead));
            let name = format!("run-{index}");
            std::thread::Builder::new()
                .name(name)
                .spawn(move || work(seat, &receiver, &ahead, &faults))?;
        }
        Ok(Self {
            sender,
            ahead,
            threads,
        })
    }

    /// Queues a job that should take about `cost_ns`. Never waits.
    pub fn submit(&self, cost_ns: u64, job: Job) -> Result<(), Full> {
        let cost = Cost {
            ahead: Arc::clone(&self.ahead),
            cost_ns,
        };
        self.ahead.cost_ns.fetch_add(cost_ns, Ordering::Relaxed);
        self.ahead.queued.fetch_add(1, Ordering::Relaxed);
        self.sender.try_send(Queued { job, cost }).map_err(|_| {
            self.ahead.queued.fetch_sub(1, Ordering::Relaxed);
            Full
        })
    }

    /// How long a job that comes now should wait until a thread takes it; none where there is no queue.
    pub fn wait(&self) -> Duration {
        if self.ahead.queued.load(Ordering::Relaxed) == 0 {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.ahead.cost_ns.load(Ordering::Relaxed) / self.threads.max(1))
    }

    /// Jobs that no thread has taken yet.
    pub fn queued(&self) -> usize {
        self.ahead.queued.load(Ordering::Relaxed)
    }
}

impl Drop for Cost {
    fn drop(&mut self) {
        self.ahead.cost_ns.fetch_sub(self.cost_ns, Ordering::Relaxed);
    }
}

fn work(mut seat: Seat, receiver: &Receiver<Queued>, ahead: &Ahead, faults: &Faults) {
    while let Ok(Queued { job, cost }) = receiver.recv() {
        ahead.queued.fetch_sub(1, Ordering::Relaxed);
        // A job owns what it works on, and what belongs to the seat is written anew by every run.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job(&mut seat))) {
            faults.keep(panic_text(payload.as_ref()));
        }
        drop(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seat::Room;
    use crossbeam_channel::unbounded;

    const BOUND: Duration = Duration::from_secs(20);

    fn pool(threads: usize, queue: usize) -> (Pool, Arc<Faults>) {
        let faults = Arc::new(Faults::default());
        (Pool::start(Room::new(threads).1, queue, &faults).unwrap(), faults)
    }

    #[test]
    fn a_panic_is_kept_and_the_thread_goes_on() {
        let (pool, faults) = pool(1, 4);
        let (sender, receiver) = unbounded();
        pool.submit(1, Box::new(|_| panic!("bad model"))).unwrap();
        pool.submit(1, Box::new(move |seat| sender.send(seat.index()).unwrap()))
            .unwrap();
        assert_eq!(receiver.recv_timeout(BOUND), Ok(0));
        assert_eq!(faults.take(), ["panic: bad model"]);
    }

    #[test]
    fn the_wait_is_what_is_ahead_and_a_full_queue_refuses() {
        let (pool, _) = pool(1, 1);
        let (started, is_started) = unbounded();
        let (release, released) = unbounded::<()>();
        let held = move |_: &mut Seat| {
            started.send(()).unwrap();
            released.recv().ok();
        };
        pool.submit(1000, Box::new(held)).unwrap();
        is_started.recv_timeout(BOUND).unwrap();
        assert_eq!(pool.wait(), Duration::ZERO, "nothing is queued");
        let (done, is_done) = unbounded();
        pool.submit(500, Box::new(move |_| done.send(()).unwrap()))
            .unwrap();
        assert_eq!((pool.wait(), pool.queued()), (Duration::from_nanos(1500), 1));
        assert_eq!(pool.submit(7, Box::new(|_| ())), Err(Full));
        assert_eq!((pool.wait(), pool.queued()), (Duration::from_nanos(1500), 1));
        drop(release);
        is_done.recv_timeout(BOUND).unwrap();
        assert_eq!(pool.queued(), 0);
    }
}
