//! Work that can wait, on a thread that takes the processor after those that serve.

use std::panic::resume_unwind;
use std::thread::{Builder, scope};

/// Against serving threads on a busy processor, that is a tenth of it.
const NICENESS: i32 = 10;

/// Runs `work` on a thread of its own of low priority, and waits for it. Fails where the system gives no thread.
///
/// A thread cannot count on getting its priority back, which takes a privilege; so it is never the caller's.
pub fn in_background<T: Send>(work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    scope(|threads| {
        let thread = Builder::new()
            .name("background".to_owned())
            .spawn_scoped(threads, || {
                lower_priority();
                work()
            })?;
        thread.join().or_else(|panic| resume_unwind(panic))
    })
}

/// By so much, whatever it is already. Where the system refuses, the thread goes on as it is.
fn lower_priority() {
    // Elsewhere this would be the whole process.
    #[cfg(target_os = "linux")]
    // SAFETY: it changes the priority of this thread, and nothing in memory.
    unsafe {
        libc::nice(NICENESS);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn niceness() -> i32 {
        // SAFETY: reads the priority of this thread.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    #[test]
    fn the_work_is_of_low_priority_and_the_caller_is_not() {
        let before = niceness();
        let inside = in_background(niceness).unwrap();
        assert_eq!((inside, niceness()), ((before + NICENESS).min(19), before));
    }

    #[test]
    fn a_panic_is_the_callers() {
        let caught = std::panic::catch_unwind(|| in_background(|| std::panic::panic_any("broken")));
        let text = caught.unwrap_err().downcast::<&str>().unwrap();
        assert_eq!(*text, "broken");
    }
}
