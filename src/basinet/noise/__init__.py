"""How molecules are noised: a clean batch in, a noisy batch and its target out."""
