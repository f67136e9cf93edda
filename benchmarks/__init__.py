"""Servers under load, side by side with their peers; see README.md."""
