"""How long a network takes, measured in turns, and why."""
