"""This package deals with the machine: devices, memory, processes, signals and sensors."""
