"""What happens to observations and rewards before a network sees them."""
