"""Preferences and instructions to checkpoints."""
