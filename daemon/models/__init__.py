"""What is known about a set of weights: manifest, store, architectures."""
