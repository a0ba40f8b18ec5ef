"""What authors of the course use and its notebooks do not."""
