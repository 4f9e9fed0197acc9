"""Environments: the toy games, and one adapter file per suite."""
