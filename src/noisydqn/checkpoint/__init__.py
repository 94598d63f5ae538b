"""Checkpoints of a whole run: written beside the old ones, checked when read, without pickle."""
