"""What every centre shares that is reached by logging in and typing commands: who one is there, files, fences."""
