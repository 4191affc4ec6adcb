"""What is compared with what: losses, and the published methods composed of them."""
