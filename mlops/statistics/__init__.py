"""Figures of rows over time and how far they can be off: what gates, outcomes and reports compute alike."""
