"""The parts of a GPU round: `experiments/gpu_round.py` starts them, each step in a process of its own."""
