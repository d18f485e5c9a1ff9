"""Trainings by other libraries: with our optimizers and schedules as with torch's."""
