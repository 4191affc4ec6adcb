"""Keep molecules in flat memory-mapped arrays."""
