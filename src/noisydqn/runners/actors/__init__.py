"""The runner whose environments are played by actors: other processes, here or on a cluster."""
