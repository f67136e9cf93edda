"""Long runs that end with one JSON line a scenario."""
