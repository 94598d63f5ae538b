"""Networks: noisy layers, convolutions, torsos and the Q-network."""
