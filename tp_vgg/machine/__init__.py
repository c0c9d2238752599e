"""The machine: devices, memory, processes, signals, sensors."""
