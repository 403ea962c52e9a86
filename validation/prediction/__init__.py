"""Models of tables of features, made and judged without a leak from the outcome, and explained."""
