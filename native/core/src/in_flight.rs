//! Admission: how many requests are accepted and unanswered, of all clients and of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::refusal::Refusal;
use crate::refuse;
use crate::service::Client;
use crate::shared::Shared;

/// A request that is in flight, until this goes: answered, refused or given up.
#[derive(Debug)]
pub struct InFlight {
    shared: Arc<Shared>,
    client: Option<Arc<Client>>,
    count: usize,
    of_client: usize,
}

impl InFlight {
    /// Counts it, whether it is admitted then or not.
    pub fn enter(shared: &Arc<Shared>, client: Option<Arc<Client>>) -> Self {
        let one_more = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::Relaxed) + 1;
        let count = one_more(&shared.in_flight);
        let of_client = client.as_ref().map_or(0, |client| one_more(&client.in_flight));
        Self {
            shared: Arc::clone(shared),
            client,
            count,
            of_client,
        }
    }

    /// Holds what is in flight against the bounds.
    pub fn admit(&self) -> Result<(), Refusal> {
        let Shared { texts, bounds, .. } = &*self.shared;
        if self.of_client > bounds.max_in_flight_per_client {
            return Err(refuse::client_in_flight(
                texts,
                self.of_client,
                bounds.max_in_flight_per_client,
            ));
        }
        if self.shared.is_draining() {
            return Err(refuse::draining(texts));
        }
        if self.count > bounds.max_in_flight {
            return Err(refuse::overloaded_in_flight(
                texts,
                self.count,
                bounds.max_in_flight,
            ));
        }
        Ok(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some(client) = &self.client {
            client.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
