//! The tap: one record for each request that reached a version, and counts by key bucket, in shared memory that the
//! control plane made. The layout is docs/formats/tap.md; `mlops.tap` reads it.

mod chain;
mod fit;
pub mod layout;
mod map;
mod page;
mod record;
mod ring;
mod worker;

pub use self::map::DamagedTap;
pub use self::page::{Columns, Page};
pub use self::record::{Entities, Record, Why};
pub use self::ring::RingWriter;
pub use self::worker::{Asked, Kept, Tap, Way};
