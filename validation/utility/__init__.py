"""Whether using the device helps: net benefit, reclassification, reading time, cost."""
