"""Whole runs: their session, folder, trackers and plots."""
