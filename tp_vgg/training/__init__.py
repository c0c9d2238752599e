"""One trainer for baseline, masked and pruned networks."""
