"""Volume to comparable Volume: the ruler, the intensities, and the record of what was done."""
