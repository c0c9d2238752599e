"""This package writes files whole or not at all, and checks files from elsewhere on reading."""
