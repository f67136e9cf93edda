//! When a connection is pinged, retired and closed: arithmetic on instants, apart from what carries it out.

use std::time::{Duration, Instant};

use super::bounds::Bounds;

/// What a connection did last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Activity {
    pub(super) has_settings: bool,
    pub(super) last_frame: Instant,
    pub(super) open_calls: usize,
    /// When the last call began or ended.
    pub(super) last_call: Instant,
}

/// What is due now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Due {
    Nothing,
    Ping,
    /// Let the calls end and take no more.
    Retire,
    Close,
}

/// The clocks of one connection.
#[derive(Debug)]
pub(super) struct Lifetime {
    settings_by: Instant,
    keepalive: Duration,
    keepalive_timeout: Duration,
    idle: Duration,
    retire_at: Option<Instant>,
    grace: Duration,
    pinged: Option<Instant>,
    close_at: Option<Instant>,
}

impl Lifetime {
    /// Of a connection accepted at `born`, the `number`th. Ages differ by up to a tenth, so that clients who came
    /// together do not all come back together.
    pub(super) fn new(bounds: &Bounds, born: Instant, number: u64) -> Self {
        let spread = 0.9 + 0.2 * (number as f64 * 0.618_033_988_75).fract();
        Self {
            settings_by: born + bounds.handshake_timeout,
            keepalive: bounds.keepalive,
            keepalive_timeout: bounds.keepalive_timeout,
            idle: bounds.idle,
            retire_at: (!bounds.age.is_zero()).then(|| born + bounds.age.mul_f64(spread)),
            grace: bounds.age_grace,
            pinged: None,
            close_at: None,
        }
    }

    /// What is due at `now`; it is taken as done.
    pub(super) fn check(&mut self, now: Instant, activity: Activity) -> Due {
        if self.pinged.is_some_and(|pinged| activity.last_frame > pinged) {
            self.pinged = None;
        }
        let is_late = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        if (!activity.has_settings && now >= self.settings_by)
            || is_late(self.pinged.map(|pinged| pinged + self.keepalive_timeout))
            || is_late(self.close_at)
        {
            return Due::Close;
        }
        if self.close_at.is_none() && (is_late(self.retire_at) || is_late(self.idle_at(activity))) {
            self.close_at = Some(now + self.grace);
            return Due::Retire;
        }
        if is_late(self.ping_at(activity)) {
            self.pinged = Some(now);
            return Due::Ping;
        }
        Due::Nothing
    }

    /// When to check again, asked at `now`; None where nothing can become due.
    pub(super) fn next(&self, now: Instant, activity: Activity) -> Option<Instant> {
        let settings_by = (!activity.has_settings).then_some(self.settings_by);
        // The answer may come just after now; then the next ping is due this early.
        let pong_by = self
            .pinged
            .map(|pinged| (pinged + self.keepalive_timeout).min(now + self.keepalive));
        let (retire_at, idle_at) = if self.close_at.is_none() {
            // The last open call may end just after now.
            let idle_at = (!self.idle.is_zero()).then(|| self.idle_at(activity).unwrap_or(now + self.idle));
            (self.retire_at, idle_at)
        } else {
            (None, None)
        };
        [
            settings_by,
            pong_by,
            self.ping_at(activity),
            retire_at,
            idle_at,
            self.close_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn ping_at(&self, activity: Activity) -> Option<Instant> {
        (self.pinged.is_none() && !self.keepalive.is_zero()).then(|| activity.last_frame + self.keepalive)
    }

    fn idle_at(&self, activity: Activity) -> Option<Instant> {
        (activity.open_calls == 0 && !self.idle.is_zero()).then(|| activity.last_call + self.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn bounds() -> Bounds {
        Bounds {
            keepalive: 30 * S,
            keepalive_timeout: 10 * S,
            age_grace: 5 * S,
            ..Bounds::default()
        }
    }

    fn quiet(now: Instant) -> Activity {
        Activity {
            has_settings: true,
            last_frame: now,
            open_calls: 0,
            last_call: now,
        }
    }

    #[test]
    fn a_silent_client_is_pinged_and_one_that_does_not_answer_closed() {
        let now = Instant::now();
        let mut lifetime = Lifetime::new(&bounds(), now, 0);
        assert_eq!(lifetime.next(now, quiet(now)), Some(now + 30 * S));
        assert_eq!(lifetime.check(now + 29 * S, quiet(now)), Due::Nothing);
        assert_eq!(lifetime.check(now + 30 * S, quiet(now)), Due::Ping);
        assert_eq!(lifetime.next(now + 30 * S, quiet(now)), Some(now + 40 * S));
        assert_eq!(lifetime.check(now + 39 * S, quiet(now)), Due::Nothing);
        assert_eq!(lifetime.check(now + 40 * S, quiet(now)), Due::Close);
    }

    #[test]
    fn any_frame_answers_a_ping() {
        let now = Instant::now();
        let mut lifetime = Lifetime::new(&bounds(), now, 0);
        assert_eq!(lifetime.check(now + 30 * S, quiet(now)), Due::Ping);
        let heard = quiet(now + 31 * S);
        assert_eq!(lifetime.check(now + 40 * S, heard), Due::Nothing);
        assert_eq!(lifetime.next(now + 40 * S, heard), Some(now + 61 * S));
    }

    #[test]
    fn a_client_without_settings_is_closed() {
        let now = Instant::now();
        let mut lifetime = Lifetime::new(&bounds(), now, 0);
        let dumb = Activity {
            has_settings: false,
            ..quiet(now)
        };
        assert_eq!(lifetime.next(now, dumb), Some(now + 10 * S));
        assert_eq!(lifetime.check(now + 10 * S, dumb), Due::Close);
    }

    #[test]
    fn age_retires_and_after_the_grace_closes() {
        let now = Instant::now();
        let mut lifetime = Lifetime::new(
            &Bounds {
                age: 100 * S,
                keepalive: Duration::ZERO,
                ..bounds()
            },
            now,
            0,
        );
        let busy = Activity {
            open_calls: 1,
            ..quiet(now)
        };
        assert_eq!(lifetime.check(now + 89 * S, busy), Due::Nothing);
        assert_eq!(lifetime.check(now + 90 * S, busy), Due::Retire);
        assert_eq!(lifetime.next(now, busy), Some(now + 95 * S));
        assert_eq!(lifetime.check(now + 94 * S, busy), Due::Nothing);
        assert_eq!(lifetime.check(now + 95 * S, busy), Due::Close);
    }

    #[test]
    fn idle_retires_only_without_calls() {
        let now = Instant::now();
        let mut lifetime = Lifetime::new(
            &Bounds {
                idle: 20 * S,
                keepalive: Duration::ZERO,
                ..bounds()
            },
            now,
            0,
        );
        let busy = Activity {
            open_calls: 1,
            ..quiet(now)
        };
        assert_eq!(lifetime.check(now + 50 * S, busy), Due::Nothing);
        assert_eq!(lifetime.next(now + 50 * S, busy), Some(now + 70 * S));
        assert_eq!(lifetime.check(now + 50 * S, quiet(now)), Due::Retire);
    }

    #[test]
    fn ages_are_spread() {
        let now = Instant::now();
        let bounds = Bounds {
            age: 100 * S,
            ..bounds()
        };
        let due: Vec<_> = (0..50)
            .filter_map(|n| Lifetime::new(&bounds, now, n).retire_at)
            .map(|at| at - now)
            .collect();
        assert!(due.iter().all(|at| (90 * S..=110 * S).contains(at)));
        assert!(
            due.iter()
                .max()
                .unwrap()
                .saturating_sub(*due.iter().min().unwrap())
                > 15 * S
        );
    }
}
