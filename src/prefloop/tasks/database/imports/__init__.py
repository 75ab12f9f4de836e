"""Published question sets, by their layouts."""
