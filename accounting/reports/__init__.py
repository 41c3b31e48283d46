"""What was spent and used, by whom and when. Reads only."""
