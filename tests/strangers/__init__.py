"""Runs and policies as a stranger may send them, and what a user does with them."""
