"""Features in, a number out: pure functions, no state."""
