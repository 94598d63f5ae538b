"""What is learned of a return: distributions, bootstrap targets and losses."""
