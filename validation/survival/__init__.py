"""How long until an event, where not everybody was followed to it: curves, hazards, concordance."""
