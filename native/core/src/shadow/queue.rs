//! The queue before the thread of shadows: bounded by number and by size. Whoever puts something in never waits.

use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

/// What any thread may put in and one thread takes out.
///
/// Invariant: `count` is at least the number of places that are taken in the channel, those included that a thread is
/// just putting in or taking out. So a place is free before it is asked for, and nobody waits for a thread that has
/// half taken something and is not run: that thread is of the lowest priority.
#[derive(Debug)]
pub(super) struct Queue<T> {
    sender: Sender<(T, usize)>,
    receiver: Receiver<(T, usize)>,
    count: AtomicUsize,
    bytes: AtomicUsize,
    max_count: usize,
    max_bytes: usize,
}

/// Room for something that is to be put in.
#[derive(Debug)]
pub(super) struct Room<'a, T> {
    held: Held<'a, T>,
    count: usize,
}

/// Something that was taken out. It counts until this goes.
#[derive(Debug)]
pub(super) struct Taken<'a, T> {
    pub(super) item: T,
    _held: Held<'a, T>,
}

/// A share of the bounds.
#[derive(Debug)]
struct Held<'a, T> {
    size_bytes: usize,
    queue: &'a Queue<T>,
}

impl<T> Queue<T> {
    pub(super) fn new(max_count: usize, max_bytes: usize) -> Self {
        // A channel of no places hands over from thread to thread, which waits.
        let (sender, receiver) = bounded(max_count.max(1));
        Self {
            sender,
            receiver,
            count: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            max_count,
            max_bytes,
        }
    }

    /// How many are in it, those included that are worked on.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether one more is likely to have room.
    pub(super) fn has_room(&self) -> bool {
        self.len() < self.max_count && self.bytes.load(Ordering::Relaxed) < self.max_bytes
    }

    /// Room for something of this size; None where there is none.
    pub(super) fn reserve(&self, size_bytes: usize) -> Option<Room<'_, T>> {
        // Acquired, so that a place which another thread has given back is free.
        let before = self.count.fetch_add(1, Ordering::Acquire);
        let bytes_before = self.bytes.fetch_add(size_bytes, Ordering::Relaxed);
        let held = Held {
            size_bytes,
            queue: self,
        };
        let fits = before < self.max_count && bytes_before.saturating_add(size_bytes) <= self.max_bytes;
        fits.then_some(Room {
            held,
            count: before + 1,
        })
    }

    /// The oldest, if there is one.
    pub(super) fn take(&self) -> Option<Taken<'_, T>> {
        let (item, size_bytes) = self.receiver.try_recv().ok()?;
        Some(Taken {
            item,
            _held: Held {
                size_bytes,
                queue: self,
            },
        })
    }
}

impl<T> Room<'_, T> {
    /// Puts something in, and says how many there are then.
    pub(super) fn put(self, item: T) -> usize {
        let Self { held, count } = self;
        // By the invariant there is a place, and the receiver is in the queue itself.
        if held.queue.sender.try_send((item, held.size_bytes)).is_ok() {
            // What takes it out gives the share back.
            std::mem::forget(held);
        }
        count
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        self.queue.bytes.fetch_sub(self.size_bytes, Ordering::Relaxed);
        self.queue.count.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put<T>(queue: &Queue<T>, size_bytes: usize, item: T) -> Option<usize> {
        queue.reserve(size_bytes).map(|room| room.put(item))
    }

    #[test]
    fn number_and_size_are_bounds_until_what_was_taken_is_done_with() {
        let queue = Queue::new(3, 100);
        assert_eq!(put(&queue, 60, "a"), Some(1));
        assert_eq!(put(&queue, 41, "too large"), None);
        assert_eq!(put(&queue, 40, "b"), Some(2));
        assert!(!queue.has_room(), "of its bytes");
        let taken = queue.take().unwrap();
        assert_eq!((taken.item, put(&queue, 1, "too early")), ("a", None));
        drop(taken);
        drop(queue.reserve(1));
        assert_eq!((put(&queue, 0, "c"), put(&queue, 0, "d")), (Some(2), Some(3)));
        assert!(!queue.has_room(), "of its number");
        assert_eq!(put(&queue, 0, "too many"), None);
        let mut left = Vec::new();
        while let Some(taken) = queue.take() {
            left.push(taken.item);
        }
        assert_eq!(
            (left, queue.len(), queue.has_room()),
            (vec!["b", "c", "d"], 0, true)
        );
    }

    #[test]
    fn a_queue_of_no_places_takes_nothing() {
        let queue = Queue::new(0, 100);
        assert!(!queue.has_room());
        assert_eq!(put(&queue, 1, ()), None);
    }

    #[test]
    fn what_several_threads_put_in_is_in_the_order_of_each_and_lost_nowhere() {
        const EACH: usize = 20_000;
        let queue = Queue::new(8, usize::MAX);
        let (mut next, mut taken) = ([0; 2], 0);
        let dropped = std::thread::scope(|scope| {
            let offer = |number: usize| {
                let queue = &queue;
                move || {
                    let is_dropped = |item: &usize| put(queue, 1, (number, *item)).is_none();
                    (0..EACH).filter(is_dropped).count()
                }
            };
            let threads = [0, 1].map(|number| scope.spawn(offer(number)));
            loop {
                let is_over = threads.iter().all(|thread| thread.is_finished());
                while let Some(found) = queue.take() {
                    let (number, item) = found.item;
                    assert!(item >= next[number]);
                    next[number] = item + 1;
                    taken += 1;
                }
                if is_over {
                    break;
                }
            }
            threads.map(|thread| thread.join().unwrap()).iter().sum::<usize>()
        });
        assert_eq!((taken + dropped, queue.len()), (2 * EACH, 0));
    }
}
