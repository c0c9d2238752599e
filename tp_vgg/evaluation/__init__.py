"""This package measures the accuracy of networks and records it."""
