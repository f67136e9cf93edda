//! Makes sessions for the thread of shadows at the priority of every other load.
//!
//! That thread could not: at its own priority a load would stand still for as long as others fill the machine, holding
//! locks of the allocator and of the address space at times; and what it starts is of its priority too.

use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::background::in_background;
use crate::plan::VersionPlan;
use crate::prepare::{self, PrepareError};
use crate::session::{Library, Session};

/// The way to a thread of usual priority, which ends when this goes.
#[derive(Debug)]
pub(super) struct Loader {
    wanted: Sender<Arc<VersionPlan>>,
    made: Receiver<Result<Session, PrepareError>>,
}

impl Loader {
    /// Starts it, from a thread of usual priority.
    pub(super) fn start(library: &'static Library) -> io::Result<Self> {
        let (wanted, wants) = bounded::<Arc<VersionPlan>>(1);
        let (makes, made) = bounded(1);
        std::thread::Builder::new()
            .name("shadow-load".to_owned())
            .spawn(move || {
                for version in wants {
                    if makes.send(load(library, &version)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { wanted, made })
    }

    /// A session of a version that is prepared. Slow.
    pub(super) fn load(&self, version: &Arc<VersionPlan>) -> Result<Session, PrepareError> {
        let ended = || PrepareError::Package("the thread that loads it has ended".to_owned());
        self.wanted.send(Arc::clone(version)).map_err(|_| ended())?;
        self.made.recv().map_err(|_| ended())?
    }
}

fn load(library: &'static Library, version: &VersionPlan) -> Result<Session, PrepareError> {
    let no_thread = |error| PrepareError::Package(format!("there is no thread to load it on: {error}"));
    in_background(|| prepare::one_session(library, version)).map_err(no_thread)?
}
