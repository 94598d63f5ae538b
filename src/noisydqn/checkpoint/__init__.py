"""Checkpoints of a whole run: written beside the old ones, verified when read, without pickle."""
