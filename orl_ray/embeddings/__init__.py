"""Images and RoIs to unit vectors, each exactly once."""
