"""Checkpoints of a whole run: written beside older ones, verified when read, without pickle."""
