"""World Models (Ha & Schmidhuber, 2018, arXiv 1803.10122): V sees, M remembers and predicts, C acts."""
