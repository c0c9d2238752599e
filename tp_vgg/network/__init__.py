"""A network is described by a spec, built as a PyTorch module, and stored in checkpoints."""
