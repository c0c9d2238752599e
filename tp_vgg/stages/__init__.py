"""Each stage reads a run directory, does one command's work and writes its record there."""
