//! Clients by identity: one state for all connections of a client, for as long as it has one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::service::Client;

/// The clients that are connected. Looked up when a connection opens and closes, never for a request.
#[derive(Debug, Default)]
pub(super) struct Clients {
    connected: Mutex<HashMap<String, (Arc<Client>, usize)>>,
}

impl Clients {
    /// Counts one more connection of `identity`, until what is returned is dropped.
    pub(super) fn connect(self: &Arc<Self>, identity: String) -> Connected {
        let mut connected = self.lock();
        let (client, connections) = connected.entry(identity.clone()).or_default();
        *connections += 1;
        Connected {
            clients: Arc::clone(self),
            identity,
            client: Arc::clone(client),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Arc<Client>, usize)>> {
        // Nothing in here panics half way.
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection of a client.
#[derive(Debug)]
pub(super) struct Connected {
    clients: Arc<Clients>,
    identity: String,
    pub(super) client: Arc<Client>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut connected = self.clients.lock();
        if let Some((_, connections)) = connected.get_mut(&self.identity) {
            *connections -= 1;
            if *connections == 0 {
                connected.remove(&self.identity);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_shared_by_its_connections_and_leaves_with_the_last() {
        let clients = Arc::new(Clients::default());
        let first = clients.connect("ipv4:10.0.0.1".to_owned());
        let second = clients.connect("ipv4:10.0.0.1".to_owned());
        let other = clients.connect("subject:CN=a".to_owned());
        assert!(Arc::ptr_eq(&first.client, &second.client));
        assert!(!Arc::ptr_eq(&first.client, &other.client));
        assert_eq!(clients.len(), 2);
        drop(first);
        assert_eq!(clients.len(), 2);
        drop((second, other));
        assert_eq!(clients.len(), 0);
    }
}
