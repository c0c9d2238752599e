"""Networks as data and as modules, and their files."""
