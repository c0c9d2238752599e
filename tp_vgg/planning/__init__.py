"""From a sweep and a budget to the best ratios."""
