"""Networks from a batch and its neighbours to node features."""
