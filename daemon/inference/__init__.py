"""A model over a volume: tiles, engines, and the way back to the source grid."""
