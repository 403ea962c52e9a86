"""How closely two masks agree: overlap, surfaces in mm, lesions, and the ceiling that readers set."""
