"""Runners: what moves environments, acts, stores and learns."""
