"""This wing turns measured results into tables, figures and one HTML page (no torch)."""
