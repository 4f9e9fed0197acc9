"""What the papers would call "standard": environments, replay, checkpoints, logging, metrics, videos."""
