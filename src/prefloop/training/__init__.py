"""Preferences and examples to checkpoints: one explicit loop per method, shared pieces as functions."""
