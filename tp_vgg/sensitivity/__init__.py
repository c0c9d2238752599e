"""A sensitivity sweep measures the accuracy with one layer pruned, for every layer and level."""
