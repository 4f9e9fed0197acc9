"""Speed scripts and baselines; the tables that they wrote lie beside them."""
