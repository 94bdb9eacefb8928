"""Learning-rate schedules: when and where they move, and what they count."""
