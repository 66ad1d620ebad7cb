"""What the card of the embedded prior measures and shows."""
