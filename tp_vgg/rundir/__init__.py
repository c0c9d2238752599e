"""This package knows the settings, the layout and the contents of a run directory."""
