"""This package holds the parts of a GPU round.

`experiments/gpu_round.py` runs them, each step in a process of its own.
"""
