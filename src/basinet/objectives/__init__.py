"""Losses, and the published methods composed of them."""
