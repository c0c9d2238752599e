"""This package finds the best pruning ratios or sparsities for a sweep and a budget."""
