"""The store: molecules in flat memory-mapped arrays."""
