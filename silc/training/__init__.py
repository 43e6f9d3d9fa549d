"""A number in, weights out: loop, optimizer, schedules, logs."""
