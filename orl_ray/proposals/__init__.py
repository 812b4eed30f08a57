"""Region proposals by selective search, their ranking, and the filter that turns them into RoIs."""
