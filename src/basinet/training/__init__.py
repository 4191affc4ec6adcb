"""The training loop, its optimiser, its logs and its exact restarts."""
