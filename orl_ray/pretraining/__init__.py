"""Image-level and object-level pre-training: data, views, objectives, schedules, the loop."""
