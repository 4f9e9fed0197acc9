"""Seven notebooks, each a script (NAME.py) and what it shows when it is run (NAME.ipynb)."""
