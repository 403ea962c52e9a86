"""How well a result tells the truth: areas, thresholds, proportions, readers, calibration, subgroups."""
