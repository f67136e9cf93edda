//! Which CPU a thread runs on.

/// Keeps the calling thread on `cpu`. Where the system refuses, the thread stays where it may run already.
pub(super) fn pin_this_thread(cpu: Option<usize>) {
    let Some(cpu) = cpu.filter(|cpu| *cpu < libc::CPU_SETSIZE as usize) else {
        return;
    };
    // SAFETY: an all-zero cpu_set_t is a valid empty set; CPU_SET stays inside it, since cpu < CPU_SETSIZE; the
    // call reads the set that lives on this stack, of the size given.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_runs_where_it_was_put() {
        let run = std::thread::spawn(|| {
            // SAFETY: takes nothing and returns a number.
            let cpu = usize::try_from(unsafe { libc::sched_getcpu() }).unwrap();
            pin_this_thread(Some(cpu));
            pin_this_thread(Some(1_000_000));
            (0..100).all(|_| {
                std::thread::yield_now();
                // SAFETY: takes nothing and returns a number.
                usize::try_from(unsafe { libc::sched_getcpu() }).unwrap() == cpu
            })
        });
        assert!(run.join().unwrap());
    }
}
