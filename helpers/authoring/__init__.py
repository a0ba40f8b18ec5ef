"""Tools for authors of the course, which its notebooks do not use."""
