"""Run the commands: each function takes a recipe or paths, writes files, and returns its results."""
