"""The package behind the course's notebooks: data, augmentation, models, schedules, training, plots."""

__version__ = "0.1.0"
