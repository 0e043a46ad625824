"""What a decoder stands on: encoders behind one four-stage contract."""
