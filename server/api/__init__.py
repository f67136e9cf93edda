"""What operators call: the Control service and the listener that serves it."""
