"""What belongs to a group, a parameter or a scheduler follows it, whatever is done to the optimizer: as in torch."""
