"""Pure functions of arrays: objectives, agreement, statistics. Imports nothing of the project but errors."""
