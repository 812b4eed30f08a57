"""Does object-level pre-training beat image-level pre-training? The arms, their training, scores and table."""
