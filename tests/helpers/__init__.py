"""Helpers that the tests of several subpackages share."""
