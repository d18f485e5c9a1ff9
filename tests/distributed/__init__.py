"""Several processes: parameters that are replicated, sharded, or both, by gloo on the CPU."""
