"""This package trains the baseline and fine-tunes masked and pruned networks."""
