"""Decides which model may serve, and watches whether the world has moved away from it."""
