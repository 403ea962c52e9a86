"""Where a model looked: maps with a stated resolution in mm."""
