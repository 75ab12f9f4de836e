"""Checkpoints to figures and a report."""
