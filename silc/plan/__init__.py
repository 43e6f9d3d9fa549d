"""Compute the cost of a run before it starts: parameters, FLOPs, memory, bytes sent, hours, money."""
