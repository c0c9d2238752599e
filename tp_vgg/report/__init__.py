"""One self-contained HTML page: what was measured in, HTML out (no torch; it knows no run directory)."""
