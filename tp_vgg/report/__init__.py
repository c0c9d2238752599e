"""This package turns measured results into tables, figures and one HTML page.

Nothing here imports torch.
"""
