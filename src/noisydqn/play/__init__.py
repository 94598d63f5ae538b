"""Playing with mean weights: evaluation, video, loaded policies."""
