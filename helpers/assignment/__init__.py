"""The demands on students, and how they are judged."""
