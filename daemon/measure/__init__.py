"""What a reader wants to know of a mask, in physical units."""
