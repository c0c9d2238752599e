"""Plans resolved, weights masked, channels removed, and the proof."""
