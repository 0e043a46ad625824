"""One run: loop, losses, metrics, optimiser, checkpoints."""
