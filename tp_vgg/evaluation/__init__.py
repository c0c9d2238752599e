"""What a network gets right, counted and recorded."""
