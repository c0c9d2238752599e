"""This package writes files whole or not at all, and reads files of others with care."""
