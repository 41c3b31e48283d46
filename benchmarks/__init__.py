"""One command for each figure that the README claims; every comparison runs both sides in one run."""
