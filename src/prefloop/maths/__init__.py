"""Pure functions of arrays: objectives, rankings, agreement, statistics. Imports nothing of the project but errors."""
