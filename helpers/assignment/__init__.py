"""What is demanded of students, and how it is judged."""
