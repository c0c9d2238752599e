"""This package measures the time of a network's forward pass and explains the speed-up."""
