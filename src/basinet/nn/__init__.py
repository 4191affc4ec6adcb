"""Building blocks of the backbones: radial bases, cutoffs, perceptrons, equivariant blocks."""
