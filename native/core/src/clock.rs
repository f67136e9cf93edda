//! The clocks that are not the monotonic one.

use std::time::{SystemTime, UNIX_EPOCH};

/// Of the wall.
pub fn unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Processor time of the calling thread. A call of the system: some hundred nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the time lives through the call, which writes it.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_what_a_thread_spends() {
        // More than the start of a thread takes.
        let enough = thread_cpu_ns() + 50_000_000;
        while thread_cpu_ns() < enough {}
        let of_another = std::thread::spawn(thread_cpu_ns).join().unwrap();
        assert!(of_another < enough);
    }
}
