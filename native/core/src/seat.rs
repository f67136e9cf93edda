//! Seats: who may touch what belongs to one executing thread, proved by ownership instead of a lock.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};

static NEXT_ROOM: AtomicU64 = AtomicU64::new(0);

/// A set of seats: one for each executing thread, workers first, then the threads of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    id: u64,
    seats: usize,
}

/// The right to what is kept for one executing thread. There is one of each index in a room, and it cannot be cloned.
#[derive(Debug)]
pub struct Seat {
    room: u64,
    index: usize,
}

/// One value for each seat of a room, reached without a lock by whoever holds the seat.
#[derive(Debug)]
pub struct PerSeat<T> {
    room: u64,
    values: Box<[Slot<T>]>,
}

/// On cache lines of its own, so that threads do not slow each other by writing.
#[derive(Debug)]
#[repr(align(128))]
struct Slot<T>(UnsafeCell<T>);

// SAFETY: a value is reached through `at` by the one holder of its seat, which is borrowed mutably meanwhile, or
// through `&mut self`; so two threads never touch one value at a time, and T moves between threads, which it may.
unsafe impl<T: Send> Sync for PerSeat<T> {}

impl Room {
    /// A new room, and all of its seats in order.
    pub fn new(seats: usize) -> (Self, Vec<Seat>) {
        let id = NEXT_ROOM.fetch_add(1, Ordering::Relaxed);
        (
            Self { id, seats },
            (0..seats).map(|index| Seat { room: id, index }).collect(),
        )
    }

    /// How many seats there are.
    pub fn seats(&self) -> usize {
        self.seats
    }
}

impl Seat {
    /// The place in the room, from 0.
    pub fn index(&self) -> usize {
        self.index
    }
}

impl<T> PerSeat<T> {
    /// Makes a value for each seat; an error ends the making.
    pub fn try_new<E>(room: &Room, make: impl FnMut(usize) -> Result<T, E>) -> Result<Self, E> {
        let values = (0..room.seats)
            .map(make)
            .map(|value| value.map(|value| Slot(UnsafeCell::new(value))))
            .collect::<Result<_, E>>()?;
        Ok(Self {
            room: room.id,
            values,
        })
    }

    /// Makes a value for each seat.
    pub fn new(room: &Room, mut make: impl FnMut(usize) -> T) -> Self {
        let values = (0..room.seats)
            .map(|index| Slot(UnsafeCell::new(make(index))))
            .collect();
        Self {
            room: room.id,
            values,
        }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether the room has no seats.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The value of the seat's holder.
    ///
    /// # Panics
    /// Where the seat is of another room, which is a mistake in the program.
    pub fn at<'a>(&'a self, seat: &'a mut Seat) -> &'a mut T {
        assert_eq!(self.room, seat.room, "the seat is of another room");
        let slot = &self.values[seat.index];
        // SAFETY: rooms have different ids and give each seat once, so no other seat leads to this slot; `seat` stays
        // borrowed for as long as the value does, so this one does not lead to it twice.
        unsafe { &mut *slot.0.get() }
    }

    /// All values, by whoever owns them alone.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.values.iter_mut().map(|slot| slot.0.get_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_has_its_own_value() {
        let (room, seats) = Room::new(4);
        let counts = PerSeat::new(&room, |_| 0_u64);
        std::thread::scope(|scope| {
            for mut seat in seats {
                let counts = &counts;
                scope.spawn(move || {
                    for _ in 0..=seat.index() {
                        *counts.at(&mut seat) += 1;
                    }
                });
            }
        });
        let mut counts = counts;
        assert_eq!(
            counts.iter_mut().map(|count| *count).collect::<Vec<_>>(),
            [1, 2, 3, 4]
        );
    }

    #[test]
    #[should_panic(expected = "another room")]
    fn a_seat_of_another_room_is_no_seat_here() {
        let (room, _) = Room::new(1);
        let (_, mut others) = Room::new(1);
        PerSeat::new(&room, |_| 0).at(&mut others[0]);
    }
}
