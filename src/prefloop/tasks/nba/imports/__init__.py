"""Real seasons from files that others wrote, as rows of the league's schema."""
