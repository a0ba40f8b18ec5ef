"""The ground that the course stands on: trust it, or skip it. Nothing here knows of networks, schedules or training."""
