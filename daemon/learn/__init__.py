"""Training: phantoms of known truth, simulated scanners, losses, the built-in model."""
