"""The accuracy with one layer pruned, for every layer and level."""
