"""Memory on the device: hyperparameters and counts, the table of parameters, and what the host knows of them."""
