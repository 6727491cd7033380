"""Frame-synchronous graph search: batched, flat tensors, no loop over states."""
