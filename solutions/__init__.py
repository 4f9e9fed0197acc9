"""Exercises with generated templates and a grader, worked answers, and the reference runs of every paper."""
