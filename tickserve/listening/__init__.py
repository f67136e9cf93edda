"""What every process that listens shares: its HTTP port, certificates, socket files and log lines."""
