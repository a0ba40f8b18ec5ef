"""The ground that the course stands on: trust it, or skip it. It imports recipes alone of the course."""
