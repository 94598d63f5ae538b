"""Preprocessing of observations and rewards before a network sees them."""
