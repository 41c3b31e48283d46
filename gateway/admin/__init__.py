"""What the person who runs a gateway types."""
