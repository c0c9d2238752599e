"""The run directory: its settings, its files, and what lies in it."""
