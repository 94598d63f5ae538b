"""The learning rule and the replay buffer."""
