"""The hot stage of a backbone by hand: formulas of its derivatives, and kernels that compute them."""
