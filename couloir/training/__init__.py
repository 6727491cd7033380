"""Training: one trainer for all recipes, checkpoints that resume exactly, averaging, recovery."""
