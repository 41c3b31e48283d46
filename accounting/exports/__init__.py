"""What leaves the books in other people's formats."""
