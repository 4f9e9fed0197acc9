"""A small transformer world model whose actor learns by gradients through the dynamics."""
