"""The rows of the table of `benchmarks/peers.py`, and what they share."""
