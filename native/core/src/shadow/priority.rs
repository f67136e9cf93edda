//! How the system runs the thread of shadows: when nobody else wants the processor.

/// The last of all niceness.
const NICEST: libc::c_int = 19;

/// Gives the calling thread the lowest priority that there is. What the system refuses stays as it was.
pub(super) fn lower_this_thread() {
    // SAFETY: both take numbers alone, but for the parameters, which live through the call; the thread is this one.
    unsafe {
        let thread = libc::syscall(libc::SYS_gettid) as libc::id_t;
        libc::setpriority(libc::PRIO_PROCESS, thread, NICEST);
        let parameters = libc::sched_param { sched_priority: 0 };
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_is_lowered_and_no_other() {
        let priority = || {
            // SAFETY: both take numbers alone.
            unsafe {
                let thread = libc::syscall(libc::SYS_gettid) as libc::id_t;
                (
                    libc::getpriority(libc::PRIO_PROCESS, thread),
                    libc::sched_getscheduler(0),
                )
            }
        };
        let before = priority();
        let lowered = std::thread::spawn(move || {
            lower_this_thread();
            priority()
        });
        assert_eq!(lowered.join().unwrap(), (NICEST, libc::SCHED_IDLE));
        assert_eq!(priority(), before);
    }
}
