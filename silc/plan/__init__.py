"""What a run will cost, before it is started: parameters, FLOPs, memory, bytes, hours, money."""
