"""The sidecar: follows the taps of servers, keeps the prediction log, takes outcomes, and says what it sees."""
