"""Every figure that README and docs state, as a command that prints it."""
