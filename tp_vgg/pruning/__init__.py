"""This package resolves pruning plans, masks weights, removes channels and checks the result."""
