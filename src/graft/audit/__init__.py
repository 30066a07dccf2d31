"""What is found out about the data before training: which images stand in two parts, or under two labels."""
