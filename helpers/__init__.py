"""The package behind the course's notebooks: data, augmentation, models, schedules, training, figures."""

__version__ = "0.1.0"
GITHUB = "your-name/cifar10-course"  # `python -m helpers rename OWNER/REPO` sets it, and every address made of it
