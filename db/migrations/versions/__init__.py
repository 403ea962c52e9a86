"""Schema changes in order, each with a way up and a way down."""
