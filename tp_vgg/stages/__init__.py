"""One file a stage: a stage reads a run directory, works, and writes its record."""
